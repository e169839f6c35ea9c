// SmolLM3: Llama in which some layers have no position embedding at all (NoPE, arXiv:2501.18795).
#include "models/families.h"

namespace edgewise {

DecoderSpec describe_smollm3(ConfigReader& config) {
  DecoderSpec spec = common_spec(config);
  if (!config.boolean("use_sliding_window", false) && !config.has("layer_types")) {
    for (LayerSpec& layer : spec.layers) layer.window = 0;
  }
  const int64_t interval = config.size("no_rope_layer_interval", 4);
  if (config.has("no_rope_layers")) {
    const auto flags = config.numbers("no_rope_layers");  // 1: the layer has a rotary embedding
    if (flags.size() != spec.layers.size()) config.view().reject("no_rope_layers", "one entry a layer");
    for (size_t i = 0; i < flags.size(); ++i) spec.layers[i].rotary = flags[i] != 0 ? 0 : -1;
  } else {
    for (size_t i = 0; i < spec.layers.size(); ++i) {
      if ((static_cast<int64_t>(i) + 1) % interval == 0) spec.layers[i].rotary = -1;
    }
  }
  return spec;
}

}  // namespace edgewise
