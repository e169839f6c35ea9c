// Rows of activations as products want them: what stands in front, four columns at a time, and what scales a row.
#pragma once

#include <type_traits>

#include "backends/cuda/device_code.cuh"
#include "backends/cuda/kernels.h"

namespace edgewise::cuda {

// Four neighbours of a row; those from k on are zeros.
__device__ inline float4 load_four(const float* from, int i, int k) {
  if (k % 4 == 0) return i < k ? *reinterpret_cast<const float4*>(from + i) : float4{};
  const auto at = [&](int j) { return j < k ? from[j] : 0.0f; };
  return {at(i), at(i + 1), at(i + 2), at(i + 3)};
}

template <Source kSource>
__device__ inline float gate(float x, float up) {
  // Products are rounded here, as they are where they go through memory.
  if constexpr (kSource == Source::kSwiGlu) return __fmul_rn(silu(x), up);
  if constexpr (kSource == Source::kGeGlu) return __fmul_rn(gelu(x), up);
  return __fmul_rn(gelu_tanh(x), up);
}

// One row of a source, four columns at a time.
template <Source kSource>
struct Row {
  const float* x;
  const float* second;  // the norm's weights, or what is gated
  int k;
  float inverse = 1;  // of the root mean square, where there is a norm: whoever has it puts it here

  __device__ Row(const RowSource& source, int row, int columns)
      : x(source.x + static_cast<int64_t>(row) * columns), second(source.norm), k(columns) {
    if constexpr (is_gated(kSource)) second = source.up + static_cast<int64_t>(row) * columns;
  }
  __device__ float4 raw(int i) const { return load_four(x, i, k); }
  __device__ float4 at(int i) const {
    const float4 v = raw(i);
    if constexpr (kSource == Source::kPlain) return v;
    const float4 w = load_four(second, i, k);
    if constexpr (kSource == Source::kNormed)
      return {__fmul_rn(v.x * inverse, w.x), __fmul_rn(v.y * inverse, w.y), __fmul_rn(v.z * inverse, w.z),
              __fmul_rn(v.w * inverse, w.w)};
    return {gate<kSource>(v.x, w.x), gate<kSource>(v.y, w.y), gate<kSource>(v.z, w.z), gate<kSource>(v.w, w.w)};
  }
};

__device__ inline float largest_of(const float4& v) {
  return fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
}

// What divides a row whose largest number this is.
__device__ inline float row_scale(float largest, Activation kind) {
  if (largest == 0) return 1;
  if (kind == Activation::kInt8) return largest / 127.0f;
  if (largest >= 0x1p-6f && largest < 0x1p15f) return 1;
  int exponent;
  frexpf(largest, &exponent);
  return ldexpf(1.0f, max(exponent - 10, -126));  // whose inverse is a number too
}

// Calls run(source) with the source as a type.
template <typename Run>
void with_source(Source source, Run run) {
  switch (source) {
    case Source::kPlain:
      return run(std::integral_constant<Source, Source::kPlain>());
    case Source::kNormed:
      return run(std::integral_constant<Source, Source::kNormed>());
    case Source::kSwiGlu:
      return run(std::integral_constant<Source, Source::kSwiGlu>());
    case Source::kGeGlu:
      return run(std::integral_constant<Source, Source::kGeGlu>());
    case Source::kGeGluTanh:
      return run(std::integral_constant<Source, Source::kGeGluTanh>());
  }
}

}  // namespace edgewise::cuda
