// How a warp's weights become operands in its registers.
#pragma once

#include "backends/cuda/group_tile.cuh"

namespace edgewise::cuda {

// What a lane has of a chunk of 16 rows, as it lies in shared memory.
template <typename T>
struct RawChunk {
  typename T::Piece piece;
  __half2 zero = {};
  __half2 factor = {};
  float2 scale = {};

  // Chunk number `c` of a stage that begins with chunk `chunk`, whose first scales are those of column `first_column`.
  __device__ void load(const char* block, const ScaleColumns<T>& columns, bool zeros, int chunk, int c,
                       int first_column) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const auto* words = reinterpret_cast<const uint4*>(block) + c * (T::kWords * 32) + lane;
#pragma unroll
    for (int w = 0; w < T::kWords; ++w) piece.words[w] = words[w * 32];
    const int column = columns.of(chunk + c, lane % 4) - first_column;
    const char* scales = block + T::kScalesAt + column * T::kScaleBytes;
    if constexpr (T::Piece::kInteger) {
      if (zeros) zero = reinterpret_cast<const __half2*>(block + T::kZerosAt + column * T::kZeroBytes)[lane / 4];
    }
    if constexpr (T::kScaled == Scaling::kLanes) factor = reinterpret_cast<const __half2*>(scales)[lane / 4];
    if constexpr (T::kPartly) scale = reinterpret_cast<const float2*>(scales)[lane / 4];
  }
  // As operands for 16 columns each.
  __device__ void unpack(bool zeros, uint32_t (&a)[4][4]) const {
    LaneRows rows;
    if constexpr (T::Piece::kInteger) {
      rows.zero[0] = rows.zero[1] = __float2half2_rn(T::kOf == Encoding::kInt4 ? 1032.0f : 1152.0f);
      if (zeros) {
        const __half2 biased = __hadd2(zero, __float2half2_rn(1024.0f));
        rows.zero[0] = __half2half2(__low2half(biased));
        rows.zero[1] = __half2half2(__high2half(biased));
      }
    }
    if constexpr (T::kScaled == Scaling::kLanes) {
      rows.scale[0] = __half2half2(__low2half(factor));
      rows.scale[1] = __half2half2(__high2half(factor));
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      operand<T::kOf>(piece, i, rows, a[i]);
      if constexpr (T::kScaled == Scaling::kLanes) {
#pragma unroll
        for (int j = 0; j < 4; ++j) a[i][j] = bits_of(__hmul2(half2_of(a[i][j]), rows.scale[j % 2]));
      }
    }
  }
};

}  // namespace edgewise::cuda
