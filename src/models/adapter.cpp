#include "models/adapter.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/error.h"
#include "base/mapped_file.h"
#include "formats/json.h"
#include "formats/safetensors.h"
#include "text/regex.h"

namespace edgewise {
namespace fs = std::filesystem;
namespace {

// Fields that say how an adapter was made or where it belongs. Which modules it changes, the tensors say.
const std::set<std::string> kAdapterOrigin = {
    "auto_mapping",   "base_model_name_or_path", "corda_config",        "eva_config",   "exclude_modules",
    "inference_mode", "layers_pattern",          "layers_to_transform", "loftq_config", "lora_dropout",
    "lora_ga_config", "megatron_config",         "megatron_core",       "peft_version", "qalora_group_size",
    "revision",       "runtime_config",          "target_modules",      "task_type"};
const std::set<std::string> kAdapterFields = {"peft_type",     "r",          "lora_alpha",        "rank_pattern",
                                              "alpha_pattern", "use_rslora", "init_lora_weights", "bias"};

// Initializations that leave the base model's weights as they are; the others (PiSSA, OLoRA, LoftQ, CorDA, LoRA-GA)
// change them, so that the adapter fits another base.
bool keeps_base(const Json& init) {
  return init.is_boolean() || init == "gaussian" || init == "orthogonal" || init == "eva";
}

// The variants of LoRA each have a field of their own, absent, false, empty or null where they are not used.
void check_fields(const JsonView& config) {
  if (config.string("peft_type") != "LORA")
    unsupported("{}: peft_type {}: only LORA is supported", config.where(), config.string("peft_type"));
  if (config.string("bias", "none") != "none")
    unsupported("{}: bias = {}: adapters that change biases are not supported", config.where(), config.string("bias"));
  if (config.has("init_lora_weights") && !keeps_base(config.at("init_lora_weights").value())) {
    unsupported("{}: init_lora_weights = {}: it changes the base model; convert the adapter to plain LoRA with PEFT",
                config.where(), config.at("init_lora_weights").value().dump());
  }
  for (const auto& [key, value] : config.value().items()) {
    const bool unused = value.is_null() || value == false || ((value.is_array() || value.is_object()) && value.empty());
    if (unused || kAdapterFields.contains(key) || kAdapterOrigin.contains(key)) continue;
    unsupported("{}: the field {} = {:.60} is not supported", config.where(), key,
                value.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
}

// A number for all modules, and others for those whose path ends in a match of a regular expression.
class PatternedNumber {
 public:
  PatternedNumber(const JsonView& config, const OrderedJson& document, const std::string& field)
      : fallback_(config.number(field == "r" ? "r" : "lora_" + field)) {
    const std::string patterns = (field == "r" ? "rank" : field) + "_pattern";
    if (!config.has(patterns)) return;
    const JsonView view = config.at(patterns);
    if (!view.value().is_object()) config.reject(patterns, "an object of regular expressions and numbers");
    for (const auto& entry : document.at(patterns).items()) {
      const std::string& key = entry.key();
      patterns_.emplace_back(tok::Regex("^(?:.*\\.)?(?:" + key + ")$", view.where()), view.number(key));
    }
  }
  double of(const std::string& module) const {
    // PEFT takes the first one of the file.
    tok::Match match{};
    const auto found = std::ranges::find_if(patterns_, [&](const auto& p) { return p.first.find(module, 0, match); });
    return found == patterns_.end() ? fallback_ : found->second;
  }

 private:
  double fallback_;
  std::vector<std::pair<tok::Regex, double>> patterns_;
};

// "base_model.model.M.lora_A.weight" -> M, when the name has this ending.
std::optional<std::string> module_of(std::string_view name, std::string_view ending) {
  constexpr std::string_view kPrefix = "base_model.model.";
  if (!name.starts_with(kPrefix) || !name.ends_with(ending) || name.size() <= kPrefix.size() + ending.size())
    return std::nullopt;
  return std::string(name.substr(kPrefix.size(), name.size() - kPrefix.size() - ending.size()));
}

Adapter read_matrices(const SafetensorsFile& file) {
  Adapter adapter;
  for (const auto& [name, tensor] : file.tensors()) {
    const auto a = module_of(name, ".lora_A.weight");
    const auto b = module_of(name, ".lora_B.weight");
    if (!a && !b)
      unsupported("{}: the tensor {} is no low-rank matrix of a Linear (...lora_A.weight, ...lora_B.weight)",
                  file.source(), name);
    const DType dtype = tensor.dtype();
    if (dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kBF16)
      unsupported("{}: {} is {}; f32, f16 and bf16 are supported", file.source(), name, dtype_name(dtype));
    (a ? adapter[*a].a : adapter[*b].b) = tensor;
  }
  if (adapter.empty()) bad_file("{}: no low-rank matrices in it", file.source());
  for (const auto& [module, weights] : adapter) {
    const bool whole =
        weights.a.rank() == 2 && weights.b.rank() == 2 && weights.a.dim(0) > 0 && weights.a.dim(0) == weights.b.dim(1);
    if (whole) continue;
    bad_file("{}: {}: expected lora_A [r, inputs] and lora_B [outputs, r], found {} and {}", file.source(), module,
             shape_text(weights.a.shape()), shape_text(weights.b.shape()));
  }
  return adapter;
}

}  // namespace

Adapter read_adapter(const fs::path& path) {
  const bool is_file = path.extension() == ".safetensors";
  const fs::path directory = is_file ? path.parent_path() : path;
  if (!fs::exists(directory / "adapter_config.json")) {
    fail(ErrorKind::kIo, "{}: no adapter_config.json; expected a PEFT adapter, with adapter_model.safetensors",
         directory.string());
  }
  const fs::path config_path = directory / "adapter_config.json";
  const Json document = read_json_file(config_path);
  const JsonView config(document, config_path.string());
  if (!document.is_object()) bad_file("{}: not a JSON object", config.where());
  check_fields(config);
  const OrderedJson in_order = parse_ordered_json(read_text_file(config_path), config.where());
  const PatternedNumber ranks(config, in_order, "r");
  const PatternedNumber alphas(config, in_order, "alpha");
  const bool square_root = config.boolean("use_rslora", false);  // arXiv:2312.03732

  Adapter adapter = read_matrices(SafetensorsFile::open(is_file ? path : path / "adapter_model.safetensors"));
  for (auto& [module, weights] : adapter) {
    const auto rank = static_cast<double>(weights.a.dim(0));
    if (ranks.of(module) != rank) {
      bad_file("{}: {} has rank {} in adapter_model.safetensors, {} here", config.where(), module, rank,
               ranks.of(module));
    }
    weights.scale = static_cast<float>(alphas.of(module) / (square_root ? std::sqrt(rank) : rank));
    if (!std::isfinite(weights.scale)) bad_file("{}: {}: the scale is not a finite number", config.where(), module);
  }
  return adapter;
}

void follow_channel_scales(const fs::path& file, Adapter& adapter) {
  const SafetensorsFile scales = SafetensorsFile::open(file);
  const auto scaled = [&](const std::string& name, const Tensor& matrix, bool columns) {
    if (!scales.contains(name)) return matrix;
    const auto factors = scales.at(name).to_floats();
    const auto width = static_cast<size_t>(matrix.dim(1));
    auto values = matrix.to_floats();
    if (factors.size() * (columns ? 1 : width) != (columns ? width : values.size())) {
      bad_file("{}: {} has {} factors for a matrix {}", file.string(), name, factors.size(),
               shape_text(matrix.shape()));
    }
    for (size_t i = 0; i < values.size(); ++i) {
      if (columns)
        values[i] *= factors[i % width];
      else
        values[i] /= factors[i / width];
    }
    return Tensor::from_floats(DType::kF32, matrix.shape(), values);
  };
  for (auto& [module, weights] : adapter) {
    weights.a = scaled(module + ".input", weights.a, true);
    weights.b = scaled(module + ".output", weights.b, false);
  }
}

bool has_unknown_channel_scales(const fs::path& directory) {
  if (fs::exists(directory / kChannelScalesFile) || !fs::exists(directory / "config.json")) return false;
  const Json document = read_json_file(directory / "config.json");
  const JsonView config(document, (directory / "config.json").string());
  return config.has("quantization_config") && config.at("quantization_config").string("quant_method", "") == "awq";
}

}  // namespace edgewise
