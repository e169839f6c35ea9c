// Phi-2: one LayerNorm feeds attention and MLP in parallel, partial rotary embedding, biases everywhere.
// Phi-3 and 3.5: Llama with fused qkv and gate_up matrices and LongRoPE.
#include "models/families.h"

namespace edgewise {

DecoderSpec describe_phi(ConfigReader& config) {
  DecoderSpec spec = common_spec(config);
  config.require("qk_layernorm", false);
  spec.norm = NormKind::kLayer;
  spec.norm_epsilon = config.number("layer_norm_eps", 1e-5);
  spec.parallel_residual = true;
  spec.mlp_norm = "";
  spec.final_norm = "model.final_layernorm";
  spec.o = "self_attn.dense";
  spec.gate = "";
  spec.up = "mlp.fc1";
  spec.down = "mlp.fc2";
  return spec;
}

DecoderSpec describe_phi3(ConfigReader& config) {
  DecoderSpec spec = common_spec(config);
  spec.qkv = "self_attn.qkv_proj";
  spec.gate_up = "mlp.gate_up_proj";
  return spec;
}

}  // namespace edgewise
