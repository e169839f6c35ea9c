// INT8 and FP8 caches keep a scale beside each token's key and value of each head, so that a head with large keys costs
// the others nothing and no calibration decides what fits.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

#include "base/dtype.h"

namespace edgewise {

inline bool kv_is_scaled(DType dtype) { return dtype == DType::kI8 || dtype == DType::kF8E4M3; }

// What brings the largest of `head` to the largest code, 127 or 448. Never zero.
inline float kv_scale(DType dtype, std::span<const float> head) noexcept {
  float largest = 0;
  for (const float value : head) largest = std::max(largest, std::fabs(value));
  return std::max(largest, 1e-20f) / (dtype == DType::kI8 ? 127.0f : 448.0f);
}

// Code of a value times 1 / scale, nearest even.
inline int8_t kv_int8_code(float value) noexcept {
  return static_cast<int8_t>(std::lrint(std::clamp(value, -127.0f, 127.0f)));
}

// Bytes a token's key or value of one head takes.
inline double kv_head_bytes(DType dtype, int64_t head_dim) {
  return static_cast<double>(head_dim) * bit_width(dtype) / 8 + (kv_is_scaled(dtype) ? sizeof(float) : 0);
}

}  // namespace edgewise
