// Rounding of one weight matrix, and its tensors in a compressed-tensors checkpoint.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/tensor.h"
#include "quantize/matrix.h"
#include "quantize/scheme.h"

namespace edgewise {

// A weight [n, k] as codes and scales: value = code * scale of its row and group.
struct WeightCodes {
  int64_t n = 0;
  int64_t k = 0;
  int64_t group = 0;          // columns of a scale
  std::vector<float> codes;   // integers, or FP8 / FP4 values, before they are packed
  std::vector<float> scales;  // [n, ceil(k / group)], rounded to the dtype they are stored in
  float global_scale = 1;     // NVFP4: scales are FP8 times this

  int64_t groups() const { return (k + group - 1) / group; }
  float scale(int64_t row, int64_t column) const {
    return scales[static_cast<size_t>(row * groups() + column / group)] * global_scale;
  }
  FloatMatrix dequantized() const;
};

// The code nearest to value / scale.
float round_code(WeightType type, float value, float scale);
// The scale that maps the largest magnitude to the last code, as it is stored.
float scale_for(WeightType type, float largest, DType scale_dtype, float global_scale = 1);

// Round to nearest. `clip` [n, groups], when given, multiplies each group's largest magnitude first.
WeightCodes round_to_nearest(const FloatMatrix& weight, const QuantScheme& scheme, DType scale_dtype,
                             const std::vector<float>& clip = {});

// Checkpoint tensors of the module, named as compressed-tensors names them.
std::vector<std::pair<std::string, Tensor>> checkpoint_tensors(const std::string& module, const WeightCodes& codes,
                                                               const QuantScheme& scheme, DType scale_dtype);

}  // namespace edgewise
