// A head on its way to attention, a warp at a time: norm and rotation, and how the cache keeps it.
#pragma once

#include "backends/cuda/attention_kernels.h"
#include "backends/cuda/device_code.cuh"

namespace edgewise::cuda {

inline constexpr int kPageSlots = 64;

template <typename T>
__device__ inline T rounded(float x) {
  return static_cast<T>(x);
}
template <>
__device__ inline int8_t rounded<int8_t>(float x) {
  return static_cast<int8_t>(__float2int_rn(fminf(fmaxf(x, -127.0f), 127.0f)));
}

template <typename T>
inline constexpr float kLargestCode = 0;  // of types with scales
template <>
inline constexpr float kLargestCode<int8_t> = 127;
template <>
inline constexpr float kLargestCode<__nv_fp8_e4m3> = 448;

// A head as the cache keeps it, by a warp, to up to two places. Scales as in backends/kv_scale.h. What is not a number
// becomes zero: a masked slot must not spoil the sums of other sequences.
template <typename T>
__device__ inline void store_head(const KvLayer& layer, bool is_value, int64_t slot, int head, const float* from,
                                  int lane, T* copy = nullptr) {
  const int64_t at = (slot / kPageSlots * layer.kv_heads + head) * kPageSlots + slot % kPageSlots;
  T* to = static_cast<T*>(is_value ? layer.values : layer.keys) + at * layer.head_dim;
  constexpr float kMost = __is_same(T, __half) ? 65504.0f : 3e38f;
  const auto tame = [](float x) { return isnan(x) ? 0.0f : fminf(fmaxf(x, -kMost), kMost); };
  float inverse = 1;
  if constexpr (kLargestCode < T >> 0) {
    float largest = 0;
    for (int i = lane; i < layer.head_dim; i += 32) largest = fmaxf(largest, fabsf(tame(from[i])));
    const float scale = fmaxf(combine_warp(largest, Largest()), 1e-20f) / kLargestCode<T>;
    inverse = 1.0f / scale;
    if (lane == 0) (is_value ? layer.value_scales : layer.key_scales)[at] = scale;
  }
#pragma unroll 1
  for (int i = lane; i < layer.head_dim; i += 32) {
    const T value = rounded<T>(tame(from[i]) * inverse);
    to[i] = value;
    if (copy != nullptr) copy[i] = value;
  }
}

// A head of a row after its norm and rotation, in `to`, which is not `x`; by a warp.
__device__ inline void walk_path(const HeadPath& path, const float* x, int row, int dim, int lane, float* to) {
  float inverse = 1;
  if (path.norm != nullptr) {
    float squares = 0;
#pragma unroll 1
    for (int i = lane; i < dim; i += 32) squares += x[i] * x[i];
    inverse = rsqrtf(combine_warp(squares, Sum()) / static_cast<float>(dim) + path.epsilon);
  }
  const auto normed = [&](int i) { return path.norm != nullptr ? x[i] * inverse * path.norm[i] : x[i]; };
#pragma unroll 1
  for (int pair = lane; pair < path.half; pair += 32) {
    const int first = path.interleaved ? 2 * pair : pair;
    const int second = path.interleaved ? first + 1 : pair + path.half;
    const float a = normed(first);
    const float b = normed(second);
    const float cos = path.cos[row * path.half + pair];
    const float sin = path.sin[row * path.half + pair];
    to[first] = fmaf(a, cos, -(b * sin));
    to[second] = fmaf(b, cos, a * sin);
  }
#pragma unroll 1
  for (int i = 2 * path.half + lane; i < dim; i += 32) to[i] = normed(i);
}

}  // namespace edgewise::cuda
