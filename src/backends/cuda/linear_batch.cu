// Products of 5 tokens and more on tensor cores: weights and activations come through shared memory, several steps
// ahead (the idea of MARLIN, arXiv 2408.11743: packed weights travel as they are and become operands in registers).
//
// A tile of the product is 128 rows of the matrix and up to 128 columns; a step is a few chunks of it. With few columns
// one or two blocks of threads a multiprocessor share out all tiles' chunks evenly; what several blocks have of one
// tile is added up by the last of them, in the order of the columns. So how sums are taken depends on the matrix alone,
// and a token's result does not depend on its company.
#include <climits>

#include "backends/cuda/batch_join.cuh"
#include "backends/cuda/batch_tile.cuh"
#include "backends/cuda/device_code.cuh"
#include "backends/cuda/kernels.h"
#include "backends/cuda/stream_weights.cuh"

namespace edgewise::cuda {
namespace {

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

template <Encoding kEncoding, Scaling kScaling, int kColumns, int kCopies>
__global__ void __launch_bounds__((BatchTile<kEncoding, kScaling, kColumns, kCopies>::kThreads),
                                  (BatchTile<kEncoding, kScaling, kColumns, kCopies>::kResident))
    batch_kernel(const __grid_constant__ BatchCall call) {
#ifdef __CUDA_ARCH__
  using T = BatchTile<kEncoding, kScaling, kColumns, kCopies>;
  constexpr int kAhead = T::stages(__CUDA_ARCH__ / 10) - 1;
  constexpr int kEnd = (kAhead + 1) * T::kBytes;
  extern __shared__ __align__(128) char stages[];
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(stages));
  const Shares shares(call, T::kUnit);
  const Position begin(shares, shares.begin(blockIdx.x), T::kUnit);
  const Position end(shares, shares.begin(blockIdx.x + 1), T::kUnit);
  const int steps = (call.matrix.chunks + T::kChunks - 1) / T::kChunks;
  const int count = (end.tile - begin.tile) * steps + (end.chunk - begin.chunk) / T::kChunks;
  WeightFeed<T> weights(call, begin);
  ActivationFeed<T> activations(call, begin);
  for (int i = 0; i < min(kAhead, count); ++i) weights.load(address + i * T::kBytes);
  wait_for_inputs();
  for (int i = 0; i < kAhead; ++i) {
    if (i < count) activations.load(address + i * T::kBytes);
    end_stage();
  }
  const Place<T> place;
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
      if (T::kHalves || chunk + c < call.matrix.chunks)
        multiply_chunk<T>(stages + now, c, place, call.matrix.zeros, sums);
    }
    chunk += T::kChunks;
    if (chunk >= call.matrix.chunks || i + 1 == count) {
      finish_tile<T>(call, shares, tile, stages + now, place, sums);
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
  join_blocks<T>(call, shares, begin.tile, tile - 1, place, sums);
#endif
}

template <int kValue>
using Number = std::integral_constant<int, kValue>;

// How much shared memory a kernel takes. Where it cannot have it its launch fails, in every step, and the step says so.
template <typename T>
int stage_bytes(void (*kernel)(BatchCall)) {
  cudaFuncAttributes attributes = {};
  if (cudaFuncGetAttributes(&attributes, kernel) != cudaSuccess) return INT_MAX;
  const int bytes = T::stages(attributes.binaryVersion) * T::kBytes;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  return bytes;
}

template <Encoding kEncoding, Scaling kScaling, int kColumns, int kCopies>
void launch_batch(cudaStream_t stream, BatchCall call) {
  using T = BatchTile<kEncoding, kScaling, kColumns, kCopies>;
  const auto kernel = batch_kernel<kEncoding, kScaling, kColumns, kCopies>;
  call.column_tiles = (call.matrix.tokens * call.copies + kColumns - 1) / kColumns;
  const int units = (call.matrix.chunks + T::kUnit - 1) / T::kUnit;
  const int tiles = batch_row_tiles(call.matrix.blocks) * call.column_tiles;
  // Of few tokens as many blocks whatever the tile's columns, so that sums are taken alike.
  const int twice = 2 * call.multiprocessors;
  const bool long_enough = batch_row_tiles(call.matrix.blocks) * call.matrix.chunks >= kLeastShare * twice;
  const int most = call.matrix.tokens <= kMostBatchTokens && long_enough ? twice : call.multiprocessors;
  // Tiles of the same rows side by side read them together; sharing out units pays where there are few tiles.
  const bool shared = call.column_tiles == 1 || tiles < kBatchSharedTiles * call.multiprocessors;
  const int blocks = shared ? min(most, tiles * min(units, kMostShares)) : tiles;
  static const int bytes = stage_bytes<T>(kernel);
  launch(kernel, dim3(static_cast<unsigned>(blocks)), T::kThreads, static_cast<size_t>(bytes), stream, call);
}

}  // namespace

void batch_linear(cudaStream_t stream, int encoding, int scaling, const BatchCall& call) {
  with_format(encoding, scaling, [&](auto e, auto s) {
    const int columns = call.matrix.tokens * call.copies;
    constexpr Encoding kEncoding = decltype(e)::value;
    constexpr Scaling kScaling = decltype(s)::value;
    constexpr bool kWide = BatchTile<kEncoding, kScaling, 128, 1>::fits();
    const auto go = [&](auto of_tile, auto copies) {
      launch_batch<kEncoding, kScaling, of_tile.value, copies.value>(stream, call);
    };
    const auto choose = [&](auto copies) {
      if (copies.value == 1 && columns <= 8)
        go(Number < copies.value == 1 ? 8 : 16 > (), copies);
      else if (columns <= 16)
        go(Number<16>(), copies);
      else if (columns <= 32)
        go(Number<32>(), copies);
      else if (columns <= 64 || !kWide)
        go(Number<64>(), copies);
      else
        go(Number < kWide ? 128 : 64 > (), copies);
    };
    if constexpr (kEncoding != Encoding::kBF16)
      choose(Number<1>());
    else if (call.copies == 2)
      choose(Number<2>());
    else
      go(Number<128>(), Number<1>());  // tokens are many
  });
}

}  // namespace edgewise::cuda
