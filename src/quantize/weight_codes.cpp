#include "quantize/weight_codes.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace edgewise {
namespace {

float last_code(WeightType type) {
  switch (type) {
    case WeightType::kInt8:
      return 127;
    case WeightType::kInt4:
      return 7;
    case WeightType::kFp8:
      return 448;
    case WeightType::kNvfp4:
      return 6;
  }
  return 1;
}

float rounded_to(DType dtype, float value) {
  if (dtype == DType::kBF16) return bf16_to_float(float_to_bf16(value));
  return dtype == DType::kF16 ? f16_to_float(float_to_f16(value)) : value;
}

// Nearest integer, ties to even, for |x| < 2^22: the addition leaves no bits behind the point. A library call here
// would take most of the time of a search.
float nearest(float x) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23
  return (x + kShift) - kShift;
}

// Unsigned codes (code + 2^(bits-1)) packed into int32 words along the columns, the first one lowest.
Tensor pack_words(const WeightCodes& codes, int bits) {
  const int64_t per = 32 / bits;
  const int64_t width = (codes.k + per - 1) / per;
  Tensor words = Tensor::zeros(DType::kI32, {codes.n, width});
  const auto out = words.mutable_as<int32_t>();
  const int offset = 1 << (bits - 1);
  for (int64_t row = 0; row < codes.n; ++row) {
    for (int64_t column = 0; column < codes.k; ++column) {
      const auto code = static_cast<uint32_t>(static_cast<int>(codes.codes[size_t(row * codes.k + column)]) + offset);
      auto& word = out[static_cast<size_t>(row * width + column / per)];
      word = static_cast<int32_t>(static_cast<uint32_t>(word) | code << (column % per * bits));
    }
  }
  return words;
}

// NVFP4's second level: a power of two, so that scale and factor are exact in bfloat16. The largest block scale lands
// in the upper half of FP8's range.
float nvfp4_global_scale(float largest) {
  if (largest <= 0) return 1;
  return std::exp2(std::ceil(std::log2(largest / 6.0f / 448.0f)));
}

// FP8 steps double with every power of two, so where between two powers the largest value comes to lie decides how
// finely the others are rounded: the scale of least squared error over one octave.
float fp8_scale(std::span<const float> values, float largest, DType scale_dtype) {
  constexpr int kCandidates = 8;
  float best = scale_for(WeightType::kFp8, largest, scale_dtype);
  double least = INFINITY;
  for (int i = 0; i < kCandidates; ++i) {
    const float scale =
        scale_for(WeightType::kFp8, largest * std::exp2(static_cast<float>(i) / kCandidates), scale_dtype);
    double error = 0;
    for (const float value : values) {
      const double difference = double{value} - double{round_code(WeightType::kFp8, value, scale)} * double{scale};
      error += difference * difference;
    }
    if (error < least) {
      least = error;
      best = scale;
    }
  }
  return best;
}

}  // namespace

FloatMatrix WeightCodes::dequantized() const {
  FloatMatrix result(n, k);
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t first = 0; first < k; first += group) {
      const float factor = scale(row, first);
      for (int64_t column = first; column < std::min(k, first + group); ++column) {
        result.at(row, column) = codes[static_cast<size_t>(row * k + column)] * factor;
      }
    }
  }
  return result;
}

float round_code(WeightType type, float value, float scale) {
  const float x = scale > 0 ? value / scale : 0;
  switch (type) {
    case WeightType::kInt8:
      return nearest(std::clamp(x, -128.0f, 127.0f));
    case WeightType::kInt4:
      return nearest(std::clamp(x, -8.0f, 7.0f));
    case WeightType::kFp8:
      return f8e4m3_to_float(float_to_f8e4m3(x));
    case WeightType::kNvfp4:
      return f4e2m1_to_float(float_to_f4e2m1(x));
  }
  return 0;
}

float scale_for(WeightType type, float largest, DType scale_dtype, float global_scale) {
  const float exact = largest / last_code(type);
  if (type == WeightType::kNvfp4) return f8e4m3_to_float(float_to_f8e4m3(exact / global_scale));
  return rounded_to(scale_dtype, exact);
}

WeightCodes round_to_nearest(const FloatMatrix& weight, const QuantScheme& scheme, DType scale_dtype,
                             const std::vector<float>& clip) {
  WeightCodes result;
  result.n = weight.rows;
  result.k = weight.columns;
  result.group = scheme.group_size > 0 ? scheme.group_size : weight.columns;
  result.codes.resize(weight.data.size());
  const int64_t groups = result.groups();
  result.scales.resize(static_cast<size_t>(weight.rows * groups));
  if (scheme.type == WeightType::kNvfp4) {
    float largest = 0;
    for (const float value : weight.data) largest = std::max(largest, std::fabs(value));
    result.global_scale = nvfp4_global_scale(largest);
  }
  for (int64_t row = 0; row < weight.rows; ++row) {
    for (int64_t g = 0; g < groups; ++g) {
      const auto first = static_cast<size_t>(g * result.group);
      const auto values =
          weight.row(row).subspan(first, std::min<size_t>(size_t(result.group), size_t(weight.columns) - first));
      float largest = 0;
      for (const float value : values) largest = std::max(largest, std::fabs(value));
      const auto at = static_cast<size_t>(row * groups + g);
      if (!clip.empty()) largest *= clip[at];
      result.scales[at] = scheme.type == WeightType::kFp8
                              ? fp8_scale(values, largest, scale_dtype)
                              : scale_for(scheme.type, largest, scale_dtype, result.global_scale);
      const float scale = result.scales[at] * result.global_scale;
      for (size_t i = 0; i < values.size(); ++i) {
        result.codes[static_cast<size_t>(row * weight.columns) + first + i] = round_code(scheme.type, values[i], scale);
      }
    }
  }
  return result;
}

std::vector<std::pair<std::string, Tensor>> checkpoint_tensors(const std::string& module, const WeightCodes& codes,
                                                               const QuantScheme& scheme, DType scale_dtype) {
  const Shape shape{codes.n, codes.k};
  const Tensor scale = Tensor::from_floats(scale_dtype, {codes.n, codes.groups()}, codes.scales);
  switch (scheme.type) {
    case WeightType::kFp8:
      return {{module + ".weight", Tensor::from_floats(DType::kF8E4M3, shape, codes.codes)},
              {module + ".weight_scale", scale}};
    case WeightType::kNvfp4: {
      const Tensor nibbles = Tensor::from_floats(DType::kF4E2M1, shape, codes.codes);
      const Tensor bytes = Tensor::view(DType::kU8, {codes.n, codes.k / 2}, nibbles.bytes(), nibbles.owner());
      return {{module + ".weight_packed", bytes},
              {module + ".weight_scale", Tensor::from_floats(DType::kF8E4M3, {codes.n, codes.groups()}, codes.scales)},
              {module + ".weight_global_scale",
               Tensor::from_floats(DType::kF32, {1}, std::vector<float>{1.0f / codes.global_scale})}};
    }
    case WeightType::kInt8:
      if (scheme.int8_activations) {
        return {{module + ".weight", Tensor::from_floats(DType::kI8, shape, codes.codes)},
                {module + ".weight_scale", scale}};
      }
      [[fallthrough]];
    case WeightType::kInt4:
      return {{module + ".weight_packed", pack_words(codes, scheme.type == WeightType::kInt4 ? 4 : 8)},
              {module + ".weight_scale", scale},
              {module + ".weight_shape", Tensor::from_int64({2}, std::vector<int64_t>{codes.n, codes.k})}};
  }
  fail(ErrorKind::kInternal, "unknown weight type");
}

}  // namespace edgewise
