// Products of 5 tokens and more on tensor cores: weights and activations come through shared memory, several steps
// ahead (the idea of MARLIN, arXiv 2408.11743: packed weights travel as they are and become operands in registers).
//
// A tile of the product is 128 rows of the matrix and up to 128 columns; a step is a few chunks of it. Up to 64 tokens
// linear_group.cu takes them where the GPU is a 9.0. Here, with few columns, one or two blocks of threads a
// multiprocessor share out all tiles' chunks evenly; what several blocks have of one tile is added up by the last of
// them, in the order of the columns. So how sums are taken depends on the matrix alone, and a token's result does not
// depend on its company.
#include <climits>

#include "backends/cuda/batch_join.cuh"
#include "backends/cuda/batch_multiply.cuh"
#include "backends/cuda/batch_tile.cuh"
#include "backends/cuda/device_code.cuh"
#include "backends/cuda/kernels.h"
#include "backends/cuda/stream_weights.cuh"

namespace edgewise::cuda {
namespace {

template <Encoding kEncoding, Scaling kScaling, int kColumns, int kCopies>
__global__ void __launch_bounds__((BatchTile<kEncoding, kScaling, kColumns, kCopies>::kThreads),
                                  (BatchTile<kEncoding, kScaling, kColumns, kCopies>::kResident))
    batch_kernel(const __grid_constant__ BatchCall call) {
#ifdef __CUDA_ARCH__
  using T = BatchTile<kEncoding, kScaling, kColumns, kCopies>;
  extern __shared__ __align__(128) char stages[];
  const Shares shares(call, T::kUnit);
  const EvenOrder order(call);
  const Position begin(shares, shares.begin(blockIdx.x), T::kUnit);
  const Position end(shares, shares.begin(blockIdx.x + 1), T::kUnit);
  const int steps = (call.matrix.chunks + T::kChunks - 1) / T::kChunks;
  const int count = (end.tile - begin.tile) * steps + (end.chunk - begin.chunk) / T::kChunks;
  const Place<T> place;
  int last_tile = begin.tile;
  multiply_steps<T, T::stages(__CUDA_ARCH__ / 10)>(call, order, begin, count, stages, place,
                                                   [&](int tile, char* memory, Sums<T>& sums) {
                                                     finish_tile<T>(call, shares, tile, memory, place, sums);
                                                     last_tile = tile;
                                                   });
  join_blocks<T>(call, shares, begin.tile, last_tile, place);
#endif
}

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
  if (call.group.ranks > 0) return group_linear(stream, encoding, scaling, call);
  with_format(encoding, scaling, [&](auto e, auto s) {
    const int columns = call.matrix.tokens * call.copies;
    constexpr Encoding kEncoding = decltype(e)::value;
    constexpr Scaling kScaling = decltype(s)::value;
    constexpr int kMost = BatchTile<kEncoding, kScaling, 128, 1>::fits() ? 128 : 64;
    const auto go = [&](auto of_tile, auto copies) {
      launch_batch<kEncoding, kScaling, of_tile.value, copies.value>(stream, call);
    };
    const auto choose = [&](auto copies) {
      constexpr int kLeast = copies.value == 1 ? 8 : 16;
      if (columns <= kLeast)
        go(Number<kLeast>(), copies);
      else if (columns <= 16)
        go(Number<16>(), copies);
      else if (columns <= 32)
        go(Number<32>(), copies);
      else if (columns <= 64)
        go(Number<64>(), copies);
      else
        go(Number<kMost>(), copies);
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
