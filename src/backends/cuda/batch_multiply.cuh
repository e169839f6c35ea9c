// What linear_batch.cu does with tiles: operands, products, and a block's way through its steps.
#pragma once

#include "backends/cuda/batch_tile.cuh"

namespace edgewise::cuda {

// The operands of a warp's rows in chunk `c` of a stage, and what multiplies their products.
template <typename T>
__device__ inline void read_weights(const char* stage, int c, const Place<T>& place, bool zeros,
                                    uint32_t (&a)[T::kRowTiles][T::kDepth][4], float2 (&scales)[T::kRowTiles]) {
#pragma unroll
  for (int r = 0; r < T::kRowTiles; ++r) {
    const int at = (place.first_row + r) * T::kChunks + c;
    const auto* words = reinterpret_cast<const uint4*>(stage) + at * T::kWords * 32 + place.lane;
    const int of_lane = T::kScaled == Scaling::kLanes ? place.t * 8 + place.g : place.g;
    typename T::Piece piece;
#pragma unroll
    for (int w = 0; w < (T::kHalves ? 2 : T::kWords); ++w)
      piece.words[w] = words[(T::kHalves ? place.half * 2 + w : w) * 32];
    LaneRows rows;
    if constexpr (T::Piece::kInteger) {
      const float middle = T::kOf == Encoding::kInt4 ? 1032.0f : 1152.0f;
      rows.zero[0] = rows.zero[1] = __float2half2_rn(middle);
      if (zeros) {
        const __half2 both = reinterpret_cast<const __half2*>(stage + T::kZerosAt + at * T::kZeroBytes)[of_lane];
        const __half2 biased = __hadd2(both, __float2half2_rn(1024.0f));
        rows.zero[0] = __half2half2(__low2half(biased));
        rows.zero[1] = __half2half2(__high2half(biased));
      }
    }
    if constexpr (T::kScaled == Scaling::kLanes) {
      const __half2 both = reinterpret_cast<const __half2*>(stage + T::kScalesAt + at * T::kScaleBytes)[of_lane];
      rows.scale[0] = __half2half2(__low2half(both));
      rows.scale[1] = __half2half2(__high2half(both));
    }
    if constexpr (T::kScaled == Scaling::kChunks)
      scales[r] = reinterpret_cast<const float2*>(stage + T::kScalesAt + at * T::kScaleBytes)[of_lane];
#pragma unroll
    for (int i = 0; i < T::kDepth; ++i) {
      operand<T::kOf>(piece, i, rows, a[r][i]);
      if constexpr (T::kScaled == Scaling::kLanes) {
#pragma unroll
        for (int j = 0; j < 4; ++j) a[r][i][j] = bits_of(__hmul2(half2_of(a[r][i][j]), rows.scale[j % 2]));
      }
    }
  }
}

template <typename T>
__device__ inline void multiply_chunk(const char* stage, int c, const Place<T>& place, bool zeros, Sums<T>& sums) {
  uint32_t a[T::kRowTiles][T::kDepth][4];
  float2 scales[T::kRowTiles];
  read_weights<T>(stage, c, place, zeros, a, scales);
#pragma unroll
  for (int tile = 0; tile < T::kColumnTiles; ++tile) {
    const int column = (place.first_column + tile) * 8 + place.g;
    const char* x = stage + T::kXAt + (c * T::kColumns + column) * kChunkBytes;
    uint4 b[T::kDepth / 2];
#pragma unroll
    for (int h = 0; h < T::kDepth / 2; ++h)
      b[h] = *reinterpret_cast<const uint4*>(x + (((T::kHalves ? place.half : h) ^ (place.g & 1)) * 4 + place.t) * 16);
    float partial[T::kRowTiles][4] = {};
#pragma unroll
    for (int i = 0; i < T::kDepth; ++i) {
      const uint4& half = b[i / 2];
      const uint32_t low = i % 2 == 0 ? half.x : half.z;
      const uint32_t high = i % 2 == 0 ? half.y : half.w;
#pragma unroll
      for (int r = 0; r < T::kRowTiles; ++r) {
        if constexpr (T::kScaled == Scaling::kChunks)
          multiply_tile<T::kBF16>(partial[r], a[r][i], low, high);
        else
          multiply_tile<T::kBF16>(sums[r][tile], a[r][i], low, high);
      }
    }
    if constexpr (T::kScaled == Scaling::kChunks) {
#pragma unroll
      for (int r = 0; r < T::kRowTiles; ++r) {
#pragma unroll
        for (int j = 0; j < 4; ++j)
          sums[r][tile][j] = fmaf(j < 2 ? scales[r].x : scales[r].y, partial[r][j], sums[r][tile][j]);
      }
    }
  }
}

// A block's way through `count` steps from `begin` on, each of which is in shared memory when it is its turn; other
// stages are on their way then. Calls finish(tile, memory, sums) behind each tile's last step, and where the steps end;
// nobody reads the stage at `memory` any more when all threads are there.
template <typename T, int kStages, typename Finish>
__device__ inline void multiply_steps(const BatchCall& call, const EvenOrder& order, const Position& begin, int count,
                                      char* stages, const Place<T>& place, Finish finish) {
  constexpr int kAhead = kStages - 1;
  constexpr int kEnd = kStages * T::kBytes;
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(stages));
  WeightFeed<T> weights(call, order, begin);
  ActivationFeed<T> activations(call, order, begin);
  for (int i = 0; i < min(kAhead, count); ++i) weights.load(address + i * T::kBytes);
  wait_for_inputs();
  for (int i = 0; i < kAhead; ++i) {
    if (i < count) activations.load(address + i * T::kBytes);
    end_stage();
  }
  Sums<T> sums = {};
  int tile = begin.tile;
  int chunk = begin.chunk;
  for (int i = 0, now = 0, next = kAhead * T::kBytes; i < count; ++i) {
    wait_stages<kAhead - 1>();
    __syncthreads();
    if (i + kAhead < count) {
      weights.load(address + next);
      activations.load(address + next);
    }
    end_stage();
#pragma unroll
    for (int j = 0; j < (T::kChunks + 1) / 2; ++j) {
      const int c = T::kHalves ? 0 : 2 * j + place.half;
      if (T::kHalves || chunk + c < order.chunk_end) multiply_chunk<T>(stages + now, c, place, call.matrix.zeros, sums);
    }
    chunk += T::kChunks;
    if (chunk >= order.chunk_end || i + 1 == count) {
      finish(tile, stages + now, sums);
#pragma unroll
      for (int r = 0; r < T::kRowTiles; ++r) {
#pragma unroll
        for (int j = 0; j < T::kColumnTiles * 4; ++j) sums[r][j / 4][j % 4] = 0;
      }
      chunk = 0;
      ++tile;
    }
    now = now + T::kBytes == kEnd ? 0 : now + T::kBytes;
    next = next + T::kBytes == kEnd ? 0 : next + T::kBytes;
  }
}

}  // namespace edgewise::cuda
