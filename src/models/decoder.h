// What a decoder-only transformer is made of. A family fills in a DecoderSpec from its config.json; build_decoder()
// turns the spec and a checkpoint into a graph. All families share this one builder.
#pragma once

#include <string>
#include <vector>

#include "graph/graph.h"
#include "models/checkpoint.h"
#include "models/rotary.h"

namespace edgewise {

enum class NormKind { kRms, kLayer };

// What differs between layers.
struct LayerSpec {
  int64_t window = 0;    // attention sees the last `window` positions; 0: all
  int rotary = 0;        // index into DecoderSpec::rotary; -1: no position embedding in this layer
  bool experts = false;  // mixture of experts instead of one MLP
};

struct DecoderSpec {
  int64_t vocabulary = 0;
  int64_t hidden = 0;
  int64_t q_heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t max_positions = 0;
  bool tied_embeddings = false;
  std::vector<LayerSpec> layers;

  NormKind norm = NormKind::kRms;
  double norm_epsilon = 1e-6;
  double norm_offset = 0;          // Gemma stores weight - 1
  bool parallel_residual = false;  // x + attention(norm(x)) + mlp(norm(x))
  double residual_scale = 1;       // Granite: x + scale * block(x)
  double embedding_scale = 1;      // Gemma: sqrt(hidden)
  double logits_scale = 1;
  double logits_softcap = 0;  // 0: none

  double attention_scale = 0;  // 1/sqrt(head_dim) unless the family says otherwise
  double attention_softcap = 0;
  int64_t rotary_dim = 0;  // leading columns of each head that are turned
  bool rotary_interleaved = false;
  std::vector<RotaryFrequencies> rotary;

  Op activation = Op::kSilu;
  std::string gelu = "none";  // for Op::kGelu: "none" or "tanh"

  int64_t experts = 0;
  int64_t experts_per_token = 0;
  bool normalize_experts = true;  // chosen weights sum to 1

  // Tensor names, below "model.layers.I.". An empty name: the module does not exist in this family.
  std::string embedding = "model.embed_tokens";
  std::string layer_prefix = "model.layers.";
  std::string final_norm = "model.norm";
  std::string lm_head = "lm_head";
  std::string attention_norm = "input_layernorm";
  std::string attention_out_norm;  // on the block's output, before the residual sum
  std::string mlp_norm = "post_attention_layernorm";
  std::string mlp_out_norm;
  std::string q = "self_attn.q_proj";
  std::string k = "self_attn.k_proj";
  std::string v = "self_attn.v_proj";
  std::string qkv;  // one matrix for the three
  std::string o = "self_attn.o_proj";
  std::string q_norm;  // over each head's columns, or over all of them, by the weight's length
  std::string k_norm;
  std::string gate = "mlp.gate_proj";  // empty: the MLP is down(activation(up(x)))
  std::string up = "mlp.up_proj";
  std::string gate_up;  // one matrix for the two
  std::string down = "mlp.down_proj";
  std::string router = "mlp.gate";
  std::string expert_prefix = "mlp.experts.";
  std::string expert_gate = "gate_proj";
  std::string expert_up = "up_proj";
  std::string expert_down = "down_proj";
};

struct DecoderOptions {
  DType dtype = DType::kBF16;  // of float weights and activations
  // The inputs of these layers become graph outputs behind the logits, named kHiddenOutputs (eagle.h): for a draft
  // head.
  std::vector<int64_t> hidden_layers = {};
  std::vector<int32_t> kept_tokens = {};  // ascending: only these have logits; empty: all
};

// Throws Error(kBadFile) naming a tensor that is missing or has another shape than the config says.
Graph build_decoder(const DecoderSpec& spec, const Checkpoint& checkpoint, const DecoderOptions& options);

}  // namespace edgewise
