// Qwen2, Qwen2.5 and distills of them: Llama with biases on q, k, v. Qwen3: a norm on each head of q and k instead.
#include "models/families.h"

#include <algorithm>

namespace edgewise {
namespace {

// use_sliding_window defaults to false here, unlike Mistral.
DecoderSpec qwen(ConfigReader& config) {
  DecoderSpec spec = common_spec(config);
  if (!config.boolean("use_sliding_window", false) && !config.has("layer_types")) {
    for (LayerSpec& layer : spec.layers) layer.window = 0;
  }
  return spec;
}

}  // namespace

DecoderSpec describe_qwen2(ConfigReader& config) { return qwen(config); }

DecoderSpec describe_qwen3(ConfigReader& config) {
  DecoderSpec spec = qwen(config);
  spec.q_norm = "self_attn.q_norm";
  spec.k_norm = "self_attn.k_norm";
  return spec;
}

DecoderSpec describe_qwen3_moe(ConfigReader& config) {
  DecoderSpec spec = describe_qwen3(config);
  config.integer("moe_intermediate_size", 0);
  spec.experts = config.has("num_experts") ? config.size("num_experts") : config.size("num_local_experts");
  spec.experts_per_token = config.size("num_experts_per_tok");
  if (spec.experts_per_token > spec.experts)
    config.view().reject("num_experts_per_tok", "at most the number of experts");
  spec.normalize_experts = config.boolean("norm_topk_prob", false);
  const int64_t step = config.size("decoder_sparse_step", 1);
  std::vector<double> dense;
  if (config.has("mlp_only_layers")) dense = config.numbers("mlp_only_layers");
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const bool listed = std::find(dense.begin(), dense.end(), static_cast<double>(i)) != dense.end();
    spec.layers[i].experts = !listed && (static_cast<int64_t>(i) + 1) % step == 0;
  }
  return spec;
}

}  // namespace edgewise
