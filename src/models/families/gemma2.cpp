// Gemma 2: norms before and after each block with weights stored minus one, soft-capped scores and logits, local
// attention in every other layer, embeddings scaled by sqrt(hidden).
#include <cmath>

#include "models/families.h"

namespace edgewise {

DecoderSpec describe_gemma2(ConfigReader& config) {
  DecoderSpec spec = common_spec(config);
  config.require("use_bidirectional_attention", nullptr);
  if (!config.has("layer_types")) {
    for (size_t i = 1; i < spec.layers.size(); i += 2) spec.layers[i].window = 0;
  }
  if (!config.has("tie_word_embeddings")) spec.tied_embeddings = true;
  spec.norm_offset = 1;
  spec.embedding_scale = std::sqrt(static_cast<double>(spec.hidden));
  spec.attention_scale = 1.0 / std::sqrt(config.number("query_pre_attn_scalar", static_cast<double>(spec.head_dim)));
  spec.attention_softcap = config.number("attn_logit_softcapping", 0.0);
  spec.logits_softcap = config.number("final_logit_softcapping", 0.0);
  spec.attention_out_norm = "post_attention_layernorm";
  spec.mlp_norm = "pre_feedforward_layernorm";
  spec.mlp_out_norm = "post_feedforward_layernorm";
  return spec;
}

}  // namespace edgewise
