// The families: config.json -> DecoderSpec. A family is one function; adding one touches its file and the table.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "models/config_reader.h"
#include "models/decoder.h"

namespace edgewise {

struct Family {
  std::string_view model_type;  // as in config.json
  DecoderSpec (*describe)(ConfigReader& config);
};
const std::vector<Family>& families();

// The spec of a checkpoint. Throws Error(kUnsupported) for an unknown model_type or a field that the family does
// not understand, naming it.
DecoderSpec describe_model(const Json& config, const std::string& where);

// Fields all families share: sizes, heads, layers, tied embeddings, rotary embedding in transformers 4 or 5 style,
// sliding window per layer.
DecoderSpec common_spec(ConfigReader& config);
// The rotary parameters in transformers 5 style, whichever style the file has. `layer_type` picks one set of several.
Json rope_parameters(ConfigReader& config, const std::string& layer_type = "");
// Sets the activation from hidden_act / hidden_activation.
void read_activation(ConfigReader& config, DecoderSpec& spec);

DecoderSpec describe_llama(ConfigReader& config);
DecoderSpec describe_qwen2(ConfigReader& config);
DecoderSpec describe_qwen3(ConfigReader& config);
DecoderSpec describe_qwen3_moe(ConfigReader& config);
DecoderSpec describe_phi(ConfigReader& config);
DecoderSpec describe_phi3(ConfigReader& config);
DecoderSpec describe_mistral(ConfigReader& config);
DecoderSpec describe_gemma2(ConfigReader& config);
DecoderSpec describe_smollm3(ConfigReader& config);

}  // namespace edgewise
