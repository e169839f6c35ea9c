#include "models/families.h"

#include <cmath>

#include "base/error.h"

namespace edgewise {
namespace {

// Layers whose attention is local, from layer_types; false when the file does not say.
bool read_layer_types(ConfigReader& config, DecoderSpec& spec, int64_t window) {
  if (!config.has("layer_types")) return false;
  const Json& types = config.raw("layer_types");
  if (!types.is_array() || types.size() != spec.layers.size()) {
    config.view().reject("layer_types", fmt::format("an array of {} entries", spec.layers.size()));
  }
  for (size_t i = 0; i < types.size(); ++i) {
    if (types[i] == "sliding_attention") {
      if (window <= 0) config.view().reject("sliding_window", "a size, since layer_types names sliding_attention");
      spec.layers[i].window = window;
    } else if (types[i] != "full_attention") {
      unsupported("{}: layer_types[{}] = {} is not supported", config.where(), i, types[i].dump());
    }
  }
  return true;
}

void read_windows(ConfigReader& config, DecoderSpec& spec) {
  const int64_t window = config.integer("sliding_window", 0);
  const bool switched_on = config.boolean("use_sliding_window", true);
  const int64_t full_layers = config.integer("max_window_layers", 0);
  if (read_layer_types(config, spec, window) || window <= 0 || !switched_on) return;
  // Without layer_types a window holds for every layer, or, in Qwen2's way, from max_window_layers on.
  for (size_t i = static_cast<size_t>(full_layers); i < spec.layers.size(); ++i) spec.layers[i].window = window;
}

}  // namespace

Json rope_parameters(ConfigReader& config, const std::string& layer_type) {
  Json parameters = Json::object();
  if (config.has("rope_parameters")) {
    parameters = config.raw("rope_parameters");
    if (!layer_type.empty() && parameters.contains(layer_type)) parameters = parameters.at(layer_type);
  } else if (config.has("rope_scaling")) {
    parameters = config.raw("rope_scaling");
  }
  if (!parameters.is_object()) config.view().reject("rope_parameters", "an object");
  if (!parameters.contains("rope_type") && parameters.contains("type")) parameters["rope_type"] = parameters["type"];
  for (const char* key : {"rope_theta", "original_max_position_embeddings", "partial_rotary_factor"}) {
    if (config.has(key) && !parameters.contains(key)) parameters[key] = config.raw(key);
  }
  return parameters;
}

void read_activation(ConfigReader& config, DecoderSpec& spec) {
  std::string name = config.string("hidden_act", "silu");
  name = config.string("hidden_activation", name);
  if (name == "silu" || name == "swish") {
    spec.activation = Op::kSilu;
  } else if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") {
    spec.activation = Op::kGelu;
    spec.gelu = "tanh";
  } else if (name == "gelu") {
    spec.activation = Op::kGelu;
  } else if (name == "relu") {
    spec.activation = Op::kRelu;
  } else {
    unsupported("{}: hidden_act = {} is not supported; there are silu, gelu, gelu_new, gelu_pytorch_tanh, relu",
                config.where(), name);
  }
}

DecoderSpec common_spec(ConfigReader& config) {
  DecoderSpec spec;
  spec.vocabulary = config.size("vocab_size");
  spec.hidden = config.size("hidden_size");
  spec.q_heads = config.size("num_attention_heads");
  spec.kv_heads = config.size("num_key_value_heads", spec.q_heads);
  spec.head_dim = config.size("head_dim", spec.hidden / spec.q_heads);
  spec.max_positions = config.size("max_position_embeddings", 2048);
  spec.tied_embeddings = config.boolean("tie_word_embeddings", false);
  spec.layers.resize(static_cast<size_t>(config.size("num_hidden_layers")));
  if (spec.layers.size() > 10000) config.view().reject("num_hidden_layers", "at most 10000");
  if (spec.kv_heads > spec.q_heads || spec.q_heads % spec.kv_heads != 0) {
    config.view().reject("num_key_value_heads", fmt::format("a divisor of num_attention_heads ({})", spec.q_heads));
  }
  config.integer("intermediate_size", 0);   // the checkpoint's shapes say it
  config.boolean("attention_bias", false);  // as does the presence of bias tensors
  config.boolean("mlp_bias", false);
  spec.norm_epsilon = config.number("rms_norm_eps", 1e-6);
  read_activation(config, spec);
  read_windows(config, spec);
  const Json parameters = rope_parameters(config);
  const JsonView rope(parameters, config.where() + ": rope_parameters");
  spec.rotary_dim =
      static_cast<int64_t>(std::floor(static_cast<double>(spec.head_dim) * rope.number("partial_rotary_factor", 1.0)));
  if (spec.rotary_dim < 2 || spec.rotary_dim > spec.head_dim || spec.rotary_dim % 2 != 0) {
    config.view().reject("partial_rotary_factor", "a factor that leaves an even number of rotated columns");
  }
  spec.rotary.push_back(rotary_frequencies(rope, spec.rotary_dim, spec.max_positions));
  return spec;
}

const std::vector<Family>& families() {
  static const std::vector<Family> all = {
      {"gemma2", describe_gemma2}, {"llama", describe_llama},         {"mistral", describe_mistral},
      {"phi", describe_phi},       {"phi3", describe_phi3},           {"qwen2", describe_qwen2},
      {"qwen3", describe_qwen3},   {"qwen3_moe", describe_qwen3_moe}, {"smollm3", describe_smollm3},
  };
  return all;
}

DecoderSpec describe_model(const Json& config, const std::string& where) {
  ConfigReader reader(config, where);
  const std::string type = reader.string("model_type", "");
  std::vector<std::string_view> known;
  for (const Family& family : families()) {
    if (family.model_type == type) {
      DecoderSpec spec = family.describe(reader);
      reader.check_all_read();
      return spec;
    }
    known.push_back(family.model_type);
  }
  unsupported("{}: model_type = \"{}\" is not supported; supported are {}", where, type, fmt::join(known, ", "));
}

}  // namespace edgewise
