#include "quantize/scheme.h"

#include "base/error.h"

namespace edgewise {

double QuantScheme::bits_per_weight() const {
  switch (type) {
    case WeightType::kInt8:
    case WeightType::kFp8:
      return 8;
    case WeightType::kInt4:
      return 4 + (group_size > 0 ? 16.0 / static_cast<double>(group_size) : 0.0);
    case WeightType::kNvfp4:
      return 4.5;
  }
  return 0;
}

QuantScheme scheme_from_name(const std::string& name, int64_t group_size) {
  if (group_size != 32 && group_size != 64 && group_size != 128) {
    usage_error("--group_size {}: expected 32, 64 or 128", group_size);
  }
  const QuantScheme schemes[] = {
      {"fp8", WeightType::kFp8, WeightMethod::kRoundToNearest, 0, false},
      {"int8", WeightType::kInt8, WeightMethod::kRoundToNearest, 0, false},
      {"int8_sq", WeightType::kInt8, WeightMethod::kSmoothQuant, 0, true},
      {"int4_awq", WeightType::kInt4, WeightMethod::kAwq, group_size, false},
      {"int4_gptq", WeightType::kInt4, WeightMethod::kGptq, group_size, false},
      {"int4_rtn", WeightType::kInt4, WeightMethod::kRoundToNearest, group_size, false},
      {"nvfp4", WeightType::kNvfp4, WeightMethod::kRoundToNearest, 16, false},
  };
  std::vector<std::string> names;
  for (const QuantScheme& scheme : schemes) {
    if (scheme.name == name) return scheme;
    names.push_back(scheme.name);
  }
  usage_error("--quantization {}: expected one of {}", name, fmt::join(names, ", "));
}

namespace {

// QuantizationArgs of the format: static, symmetric, 8-bit.
Json quantization_args(const std::string& strategy, const std::string& type) {
  return {{"actorder", nullptr},
          {"block_structure", nullptr},
          {"dynamic", false},
          {"group_size", nullptr},
          {"num_bits", 8},
          {"observer", "minmax"},
          {"observer_kwargs", Json::object()},
          {"strategy", strategy},
          {"symmetric", true},
          {"type", type}};
}

}  // namespace

Json quantization_config(const QuantScheme& scheme, const std::vector<std::string>& ignored,
                         std::optional<DType> kv_cache) {
  Json weights = quantization_args("channel", "int");
  std::string format = "pack-quantized";
  switch (scheme.type) {
    case WeightType::kInt8:
      if (scheme.int8_activations) format = "int-quantized";
      break;
    case WeightType::kInt4:
      weights["num_bits"] = 4;
      weights["strategy"] = "group";
      weights["group_size"] = scheme.group_size;
      break;
    case WeightType::kFp8:
      format = "float-quantized";
      weights["type"] = "float";
      break;
    case WeightType::kNvfp4:
      format = "nvfp4-pack-quantized";
      weights["type"] = "float";
      weights["num_bits"] = 4;
      weights["strategy"] = "tensor_group";
      weights["group_size"] = 16;
      break;
  }
  Json input = nullptr;
  if (scheme.int8_activations) {
    input = quantization_args("token", "int");
    input["dynamic"] = true;
    input["observer"] = nullptr;
  }
  Json cache = nullptr;
  if (kv_cache) cache = quantization_args("tensor", *kv_cache == DType::kI8 ? "int" : "float");
  const Json group = {
      {"targets", {"Linear"}}, {"weights", weights}, {"input_activations", input}, {"output_activations", nullptr}};
  return {{"quant_method", "compressed-tensors"},  {"format", format},  {"quantization_status", "compressed"},
          {"config_groups", {{"group_0", group}}}, {"ignore", ignored}, {"kv_cache_scheme", cache},
          {"global_compression_ratio", nullptr}};
}

}  // namespace edgewise
