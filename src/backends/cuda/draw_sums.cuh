// What the two kernels of draw.cu have in common: weights as whole numbers, and what one tells the other of a row.
#pragma once

#include "backends/cuda/device_code.cuh"
#include "backends/cuda/kernels.h"
#include "backends/draw_weight.h"

namespace edgewise::cuda {

inline constexpr unsigned kEach = 4;            // values of a chunk in a thread
inline constexpr unsigned kChunk = 32 * kEach;  // that a warp looks at together
inline constexpr int kEdges = 8;

// Of weights from an edge on.
struct Above {
  unsigned long long mass;
  unsigned count;
  __device__ Above operator+(const Above& other) const { return {mass + other.mass, count + other.count}; }
};

// What one kernel tells the other of a row: zeros between steps. Its chunks follow in memory.
struct RowSums {
  Above above[kEdges];
};
struct ChunkSum {
  unsigned long long mass;
  float largest;
};

// Digits with the exponent of a weight's bits, as a whole number up to some times kMostWeight.
__device__ inline unsigned long long whole(unsigned long long digits, unsigned bits) {
  return digits << 17 >> min(127 + 40 - (bits >> 23), 63u);
}
__device__ inline unsigned long long digits_of(unsigned bits) { return bits & 0x7fffffu | 0x800000u; }
// By its bits, which is faster than the conversion.
__device__ inline unsigned long long whole(float weight) {
  const unsigned bits = __float_as_uint(weight);
  return whole(digits_of(bits), bits);
}

// They descend: no weight is above the first one, and all but zeros are above the last one.
__device__ inline float edge(int i) {
  constexpr float kFirst[kEdges + 1] = {kMostWeight * 2,        kMostWeight * 0x1p-1f,  kMostWeight * 0x1p-3f,
                                        kMostWeight * 0x1p-6f,  kMostWeight * 0x1p-9f,  kMostWeight * 0x1p-12f,
                                        kMostWeight * 0x1p-16f, kMostWeight * 0x1p-22f, 1.0f};
  return kFirst[i];
}

__device__ inline void add(Above& sum, float weight, unsigned long long mass, float edge) {
  if (weight < edge) return;
  sum.mass += mass;
  ++sum.count;
}

// Of masses below 2^54: halves of 27 bits, so that no sum is too long.
__device__ inline Above sum_of_warp(const Above& sum) {
  const auto low = static_cast<unsigned>(sum.mass) & 0x7ffffffu;
  const auto high = static_cast<unsigned>(sum.mass >> 27);
  return {(static_cast<unsigned long long>(__reduce_add_sync(~0u, high)) << 27) + __reduce_add_sync(~0u, low),
          __reduce_add_sync(~0u, sum.count)};
}

// A warp's chunk, minus infinity behind the end.
struct Chunk {
  float values[kEach];
  unsigned first;  // place of this thread's first one; the others 32 further each

  __device__ Chunk(const float* row, unsigned number, unsigned columns) : first(number * kChunk + threadIdx.x % 32) {
#pragma unroll
    for (unsigned j = 0; j < kEach; ++j) values[j] = place(j) < columns ? __ldcg(row + place(j)) : -INFINITY;
  }
  __device__ unsigned place(unsigned j) const { return first + j * 32; }
};

}  // namespace edgewise::cuda
