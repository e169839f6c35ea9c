// The quantization schemes, and how each looks in a compressed-tensors checkpoint.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "formats/json.h"

namespace edgewise {

enum class WeightType { kInt8, kInt4, kFp8, kNvfp4 };
enum class WeightMethod { kRoundToNearest, kAwq, kGptq, kSmoothQuant };

struct QuantScheme {
  std::string name;
  WeightType type = WeightType::kInt8;
  WeightMethod method = WeightMethod::kRoundToNearest;
  int64_t group_size = 0;  // columns of a scale; 0: one scale a row
  bool int8_activations = false;

  bool needs_calibration() const { return method != WeightMethod::kRoundToNearest; }
  double bits_per_weight() const;
};

// fp8, int8, int8_sq, int4_awq, int4_gptq, int4_rtn, nvfp4. `group_size` is for the int4 ones. Throws Error(kUsage)
// listing the names.
QuantScheme scheme_from_name(const std::string& name, int64_t group_size);

// config.json's "quantization_config" (https://github.com/neuralmagic/compressed-tensors, version 0.9 and later).
// `kv_cache`: kF8E4M3 or kI8, a scale for all keys and one for all values of a layer; none: not quantized.
Json quantization_config(const QuantScheme& scheme, const std::vector<std::string>& ignored,
                         std::optional<DType> kv_cache);

}  // namespace edgewise
