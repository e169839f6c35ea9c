#include "models/eagle.h"

#include <algorithm>
#include <functional>

#include "base/error.h"
#include "models/decoder_builder.h"
#include "models/families.h"

namespace edgewise {
namespace {

constexpr const char* kLayer = "midlayer.";

// The published layout of one layer, below "midlayer.".
class EagleBuilder : public DecoderBuilder {
 public:
  EagleBuilder(const EagleHead& head, const Checkpoint& checkpoint, const DecoderOptions& options)
      : DecoderBuilder(head.layer, checkpoint, options), head_(head) {}

  Graph build() {
    begin("eagle3");
    const int64_t hidden = spec().hidden;
    const std::string prefix = kLayer;
    const auto input = [&](std::string_view name) {
      return graph().add_input(std::string(name), options().dtype, {kTokens, hidden});
    };
    const ValueId feature = input(kHiddenInput);
    const ValueId table = constant(spec().embedding + ".weight", float_weight(head_.embedding));
    const ValueId token = norm(embed(table), prefix + "input_layernorm", hidden);
    const ValueId both =
        graph().add(Op::kConcat, prefix + "input", {token, norm(feature, prefix + "hidden_norm", hidden)});
    const ValueId attended = residual(feature, attention(both, 0, prefix), prefix + "attention_residual");
    const ValueId fed = mlp(norm(attended, prefix + "post_attention_layernorm", hidden), prefix);
    const ValueId out = residual(attended, fed, kDraftHiddenOutput);
    graph().mark_output(linear(norm(out, spec().final_norm, hidden), spec().lm_head, spec().vocabulary));
    graph().mark_output(out);
    std::vector<ValueId> states;
    for (const std::string_view name : kHiddenOutputs) states.push_back(input(name));
    const ValueId joined = graph().add(Op::kConcat, "fc.input", std::move(states));
    graph().mark_output(linear(joined, "fc", hidden));
    return finish();
  }

 private:
  const EagleHead& head_;
};

// Published configs name the layers or leave them to the rule of the paper's code: the third, the middle and the third
// from the end.
std::array<int64_t, 3> hidden_layers(ConfigReader& config, const DecoderSpec& base) {
  const auto count = static_cast<int64_t>(base.layers.size());
  constexpr const char* kField = "eagle_aux_hidden_state_layer_ids";
  std::array<int64_t, 3> result{2, count / 2, count - 3};
  const Json* ids = config.has(kField) ? &config.raw(kField) : nullptr;
  if (ids == nullptr && config.has("eagle_config") && config.object("eagle_config").has(kField))
    ids = &config.raw("eagle_config").at(kField);
  if (ids != nullptr) {
    if (!ids->is_array() || ids->size() != result.size()) config.view().reject(kField, "an array of three layers");
    for (size_t i = 0; i < result.size(); ++i) {
      if (!(*ids)[i].is_number_integer()) config.view().reject(kField, "an array of three layers");
      result[i] = (*ids)[i].get<int64_t>();
    }
  }
  if (!std::ranges::is_sorted(result, std::less_equal<>())) config.view().reject(kField, "three layers in order");
  for (const int64_t layer : result) {
    if (layer < 1 || layer >= count) {
      bad_file("{}: {}: layer {} of a base model with {} layers; do the two belong together?", config.where(), kField,
               layer, count);
    }
  }
  return result;
}

void check_belongs(const Checkpoint& head, const char* field, int64_t found, int64_t expected) {
  if (found == expected) return;
  bad_file("{}: {} = {}, the base model has {}; this head was trained for another model", head.config_path(), field,
           found, expected);
}

Tensor read_vocabulary_map(const Checkpoint& head, int64_t draft_vocabulary, int64_t vocabulary) {
  if (!head.contains("d2t")) {
    if (draft_vocabulary == vocabulary) return {};
    bad_file("{}: no tensor d2t, which a draft vocabulary of {} in one of {} needs", head.directory().string(),
             draft_vocabulary, vocabulary);
  }
  const Tensor map = head.tensor("d2t", {draft_vocabulary});
  const auto offsets = map.to_int64();
  for (int64_t i = 0; i < draft_vocabulary; ++i) {
    const int64_t offset = offsets[static_cast<size_t>(i)];
    if (offset < -i || offset >= vocabulary - i) {  // a sum might overflow
      bad_file("{}: d2t[{}] = {} leads out of a vocabulary of {}", head.directory().string(), i, offset, vocabulary);
    }
  }
  return map;
}

}  // namespace

EagleHead describe_eagle(const Checkpoint& checkpoint, const DecoderSpec& base, const Checkpoint& base_checkpoint) {
  ConfigReader config(checkpoint.config(), checkpoint.config_path());
  EagleHead head;
  head.layer = common_spec(config);
  config.string("model_type", "");
  check_belongs(checkpoint, "hidden_size", head.layer.hidden, base.hidden);
  check_belongs(checkpoint, "vocab_size", head.layer.vocabulary, base.vocabulary);
  check_belongs(checkpoint, "num_hidden_layers", static_cast<int64_t>(head.layer.layers.size()), 1);
  head.hidden_layers = hidden_layers(config, base);
  const int64_t draft_vocabulary = config.size("draft_vocab_size", base.vocabulary);
  head.draft_to_target = read_vocabulary_map(checkpoint, draft_vocabulary, base.vocabulary);
  head.layer.vocabulary = draft_vocabulary;
  head.layer.final_norm = "norm";
  const bool own = checkpoint.contains("embed_tokens.weight");
  const Tensor table = own ? checkpoint.tensor("embed_tokens.weight", {base.vocabulary, base.hidden})
                           : base_checkpoint.tensor(base.embedding + ".weight", {base.vocabulary, base.hidden});
  head.embedding = lazy(table);
  config.check_all_read();
  return head;
}

Graph build_eagle(const EagleHead& head, const Checkpoint& checkpoint, DType dtype) {
  return EagleBuilder(head, checkpoint, {dtype, {}}).build();
}

}  // namespace edgewise
