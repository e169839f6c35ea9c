// EAGLE-3 draft heads (arXiv:2503.01840): one decoder layer that guesses the base model's next tokens from features of
// its hidden states. Checkpoints as published: fc, midlayer.*, norm, lm_head, d2t, t2d, and maybe embed_tokens.
#pragma once

#include <array>
#include <string_view>

#include "models/decoder.h"

namespace edgewise {

// Hidden states of the base model that a head reads: graph outputs of the base, inputs of the head.
inline constexpr std::array<std::string_view, 3> kHiddenOutputs = {"hidden.low", "hidden.mid", "hidden.high"};
// Outputs of a head's graph beside "logits": what the layer gives to the next draft step, and what the hidden states
// become before they enter the first one.
inline constexpr const char* kDraftHiddenOutput = "hidden";
inline constexpr const char* kFeaturesOutput = "fc";

struct EagleHead {
  DecoderSpec layer;  // the head's own layer; its vocabulary is the draft's
  // The base's hidden states that go into fc: the inputs of these layers.
  std::array<int64_t, 3> hidden_layers;
  LazyTensor embedding;    // [vocabulary, hidden], the head's own or the base's
  Tensor draft_to_target;  // i64 [draft vocabulary]: token = index + entry; empty when the vocabularies are one
};

// Reads config.json of the head and checks it against the base. Throws Error naming file, field, found and expected.
EagleHead describe_eagle(const Checkpoint& head, const DecoderSpec& base, const Checkpoint& base_checkpoint);

// (input_ids [N], position_ids [N], hidden_states [N, H], hidden.low/mid/high [N, H] each)
//   -> logits [N, draft vocabulary], hidden [N, H], features [N, H]
// Row p guesses token p+2 from token p+1 and the features (or the hidden output) of position p.
Graph build_eagle(const EagleHead& head, const Checkpoint& checkpoint, DType dtype);

}  // namespace edgewise
