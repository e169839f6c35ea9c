// How linear_batch.cu's sums become results: of a tile's warps, then of the blocks that share it.
#pragma once

#include "backends/cuda/batch_tile.cuh"

namespace edgewise::cuda {

// Adds up what the two warps of the same rows and columns have, and a token's columns. Each warp keeps a half, in the
// first of `sums`. `memory` is a stage that nobody reads any more.
template <typename T>
__device__ inline void join_halves(char* memory, const Place<T>& place, Sums<T>& sums) {
  constexpr int kRow = T::kSplitRows ? T::kKeptRows : 0;  // where the other half begins
  constexpr int kColumn = T::kSplitRows ? 0 : T::kKeptColumns;
  static_assert(T::kWarps * T::kKeptColumns * 512 <= T::kBytes, "a stage is too small for this");
  const int warp = static_cast<int>(threadIdx.x / 32);
  auto* mine = reinterpret_cast<float4*>(memory) + warp * T::kKeptColumns * 32 + place.lane;
  const auto* other = reinterpret_cast<const float4*>(memory) + (warp ^ 1) * T::kKeptColumns * 32 + place.lane;
#pragma unroll
  for (int r = 0; r < T::kKeptRows; ++r) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < T::kKeptColumns; ++i) {
      float given[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float second = sums[r + kRow][i + kColumn][j];
        given[j] = place.half == 0 ? second : sums[r][i][j];
        sums[r][i][j] = place.half == 0 ? sums[r][i][j] : second;
      }
      mine[i * 32] = make_float4(given[0], given[1], given[2], given[3]);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < T::kKeptColumns; ++i) {
      const float4 got = other[i * 32];
      sums[r][i][0] += got.x;
      sums[r][i][1] += got.y;
      sums[r][i][2] += got.z;
      sums[r][i][3] += got.w;
      if constexpr (T::kCopies == 2) {
        sums[r][i][0] += sums[r][i][1];
        sums[r][i][2] += sums[r][i][3];
      }
    }
  }
}

// Visits a thread's sums as join_halves() leaves them, of a pair of columns the first.
template <typename T, typename Visit>
__device__ inline void for_kept(Visit visit) {
#pragma unroll
  for (int r = 0; r < T::kKeptRows; ++r) {
#pragma unroll
    for (int i = 0; i < T::kKeptColumns; ++i) {
#pragma unroll
      for (int j = 0; j < 4; j += T::kCopies) visit(r, i, j);
    }
  }
}

// What threads of several blocks have of a tile: [sum][thread].
template <typename T>
__device__ inline float* partials_of(const BatchCall& call, unsigned slot) {
  return call.partials + static_cast<size_t>(slot) * (kBatchRows * T::kTokens) + threadIdx.x;
}
template <typename T>
__device__ constexpr int partial_at(int r, int i, int j) {
  return ((r * T::kKeptColumns + i) * 4 + j) / T::kCopies * T::kThreads;
}

// Whole sums become results. All is fetched before anything is stored, since stores hold later loads back.
template <typename T>
__device__ inline void write_tile(const BatchCall& call, int tile, const Place<T>& place, Sums<T>& sums) {
  const StreamCall& matrix = call.matrix;
  const int first_column = tile % call.column_tiles * T::kColumns + 2 * place.t +
                           (place.first_column + (T::kSplitRows ? 0 : place.half * T::kKeptColumns)) * 8;
  const auto token_of = [&](int i, int j) { return (first_column + i * 8 + j % 2) / T::kCopies; };
  float scales[T::kKeptColumns][2];
#pragma unroll
  for (int i = 0; i < T::kKeptColumns; ++i) {
#pragma unroll
    for (int j = 0; j < 2; ++j) scales[i][j] = token_of(i, j) < matrix.tokens ? matrix.x_scale[token_of(i, j)] : 0;
  }
  float* out[T::kKeptRows] = {};  // of this thread's first row
  int n[T::kKeptRows] = {};       // columns of `out`
  int left[T::kKeptRows] = {};    // rows of the part from that on
#pragma unroll
  for (int r = 0; r < T::kKeptRows; ++r) {
    const int block =
        tile / call.column_tiles * kRowBlocks + place.first_row + (T::kSplitRows ? place.half * T::kKeptRows : 0) + r;
    if (block >= matrix.blocks) continue;
    const StreamPart& part = part_of(matrix, block);
    const int row = (block - part.first_block) * static_cast<int>(kBlockRows) + place.g;
    out[r] = part.out + row;
    n[r] = part.n;
    left[r] = part.n - row;
    const bool there[2] = {left[r] > 0, left[r] > 8};
    const float factors[2] = {there[0] ? part.factors[row] : 0, there[1] ? part.factors[row + 8] : 0};
    const bool biased = part.bias != nullptr;
    const float bias[2] = {biased && there[0] ? part.bias[row] : 0, biased && there[1] ? part.bias[row + 8] : 0};
#pragma unroll
    for (int i = 0; i < T::kKeptColumns; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[r][i][j] = sums[r][i][j] * (factors[j / 2] * scales[i][j % 2]) + bias[j / 2];
    }
  }
  const auto for_results = [&](auto visit) {
    for_kept<T>([&](int r, int i, int j) {
      if (token_of(i, j) < matrix.tokens && j / 2 * 8 < left[r])
        visit(out[r] + int64_t{token_of(i, j)} * n[r] + j / 2 * 8, sums[r][i][j]);
    });
  };
  if (call.residual != nullptr) {
    const float* first = matrix.parts[0].out;
    for_results([&](const float* to, float& sum) { sum += call.residual[to - first]; });
  }
  for_results([&](float* to, float sum) { *to = sum; });
}

// A block's sums of a tile become results, or where others have a part of it stay with theirs until all are there.
template <typename T>
__device__ inline void finish_tile(const BatchCall& call, const Shares& shares, int tile, char* memory,
                                   const Place<T>& place, Sums<T>& sums) {
  join_halves<T>(memory, place, sums);
  const auto number = static_cast<unsigned>(tile);
  if (shares.first_of(number) == shares.last_of(number)) return write_tile<T>(call, tile, place, sums);
  float* mine = partials_of<T>(call, shares.slot(blockIdx.x, number));
  for_kept<T>([&](int r, int i, int j) { mine[partial_at<T>(r, i, j)] = sums[r][i][j]; });
}

// A block's first tile and its last may be others' too. Who comes last to one adds up, in the order of columns.
template <typename T>
__device__ inline void join_blocks(const BatchCall& call, const Shares& shares, int first_tile, int last_tile,
                                   const Place<T>& place) {
  __shared__ bool is_last[2];
  const int tiles[2] = {first_tile, last_tile};
  __threadfence();
  __syncthreads();
  if (threadIdx.x < 2) {
    const auto tile = static_cast<unsigned>(tiles[threadIdx.x]);
    const int others = static_cast<int>(shares.last_of(tile) - shares.first_of(tile));
    const bool mine = others > 0 && (threadIdx.x == 0 || first_tile != last_tile);
    is_last[threadIdx.x] = mine && atomicAdd(call.arrived + tile, 1) == others;
  }
  __syncthreads();
#pragma unroll 1
  for (int i = 0; i < 2; ++i) {
    if (!is_last[i]) continue;
    __threadfence();
    const auto tile = static_cast<unsigned>(tiles[i]);
    Sums<T> sums = {};
    constexpr int kKept = T::kKeptRows * T::kKeptColumns;
    constexpr int kTogether = kKept < 8 ? 8 / kKept : 1;  // loads on their way at once
    const unsigned last = shares.last_of(tile);
#pragma unroll kTogether
    for (unsigned block = shares.first_of(tile); block <= last; ++block) {
      const float* from = partials_of<T>(call, shares.slot(block, tile));
      for_kept<T>([&](int r, int c, int j) { sums[r][c][j] += __ldcg(from + partial_at<T>(r, c, j)); });
    }
    write_tile<T>(call, tiles[i], place, sums);
  }
}

}  // namespace edgewise::cuda
