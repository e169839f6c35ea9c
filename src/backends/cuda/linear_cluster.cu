// Products of 5 to 64 tokens where blocks can be clusters (compute capability 9.0): linear_batch.cu's tiles and steps,
// shared out so that nothing but weights and activations goes through memory. A cluster has some of the matrix's rows,
// the same for all its blocks, and takes them a tile at a time; each block has a part of the columns. How columns are
// shared out depends on the matrix alone, and so does the order of a sum.
#include <algorithm>
#include <climits>

#include "backends/cuda/batch_multiply.cuh"
#include "backends/cuda/cluster_join.cuh"
#include "backends/cuda/device_code.cuh"
#include "backends/cuda/kernels.h"

namespace edgewise::cuda {
namespace {

template <Encoding kEncoding, Scaling kScaling, int kColumns, int kCopies>
__global__ void __launch_bounds__((BatchTile<kEncoding, kScaling, kColumns, kCopies, true>::kThreads),
                                  (BatchTile<kEncoding, kScaling, kColumns, kCopies, true>::kResident))
    cluster_kernel(const __grid_constant__ BatchCall call) {
#if __CUDA_ARCH__ >= 900
  using T = BatchTile<kEncoding, kScaling, kColumns, kCopies, true>;
  constexpr int kStages = T::stages(__CUDA_ARCH__ / 10);
  extern __shared__ __align__(128) char stages[];
  __shared__ uint64_t barrier;
  const ClusterOrder order(call);
  Inbox<T> inbox(stages + kStages * T::kBytes, &barrier, order.ranks);
  const int steps = (order.chunk_end - order.chunk_begin + T::kChunks - 1) / T::kChunks;
  const Place<T> place;
  // A tile's sums travel while the next one is multiplied.
  const int middle = (order.chunk_begin + order.chunk_end) / 2;
  int sent = -1;
  multiply_steps<T, kStages>(
      call, order, Position(0, order.chunk_begin), order.tiles * steps, stages, place,
      [&](int chunk) {
        if (sent < 0 || chunk + T::kChunks <= middle) return;
        receive_tile<T>(call, order, inbox, sent);
        sent = -1;
      },
      [&](int tile, char* memory, Sums<T>& sums) {
        send_tile<T>(call, order, inbox, tile, memory, place, sums);
        sent = tile;
      });
  receive_tile<T>(call, order, inbox, sent);
#endif
}

// Of larger matrices joins are a small part, and clusters do not share them out as evenly as single blocks do.
constexpr int64_t kMostClusterChunks = 80000;  // of 16 rows
constexpr int64_t kMostClusterBytes = int64_t{100} << 20;

// What a kernel needs to be launched.
struct ClusterLaunch {
  size_t shared = 0;
  int clusters[3] = {};  // of 2, 4 and 8 blocks, that the GPU holds at once
};

// Where a kernel cannot have its shared memory its launch fails, in every step, and the step says so.
template <typename T>
ClusterLaunch prepare_launch(void (*kernel)(BatchCall), int multiprocessors) {
  ClusterLaunch found;
  cudaFuncAttributes function = {};
  if (cudaFuncGetAttributes(&function, kernel) != cudaSuccess) return {.shared = INT_MAX, .clusters = {1, 1, 1}};
  found.shared = static_cast<size_t>(T::stages(function.binaryVersion) * T::kBytes + T::kInboxBytes);
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(found.shared));
  cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  for (int i = 0; i < 3; ++i) {
    const int ranks = 2 << i;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(T::kResident * multiprocessors / ranks * ranks));
    config.blockDim = dim3(T::kThreads);
    config.dynamicSmemBytes = found.shared;
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {static_cast<unsigned>(ranks), 1, 1};
    config.attrs = &attribute;
    config.numAttrs = 1;
    if (cudaOccupancyMaxActiveClusters(&found.clusters[i], kernel, &config) != cudaSuccess || found.clusters[i] <= 0)
      found.clusters[i] = std::max(T::kResident * multiprocessors / ranks, 1);
  }
  return found;
}

template <Encoding kEncoding, Scaling kScaling, int kColumns, int kCopies>
void launch_cluster(cudaStream_t stream, BatchCall call) {
  using T = BatchTile<kEncoding, kScaling, kColumns, kCopies, true>;
  const auto kernel = cluster_kernel<kEncoding, kScaling, kColumns, kCopies>;
  static const ClusterLaunch prepared = prepare_launch<T>(kernel, call.multiprocessors);
  const int clusters = std::min(prepared.clusters[call.ranks / 4], call.matrix.blocks);
  call.column_tiles = 1;
  launch_clusters(kernel, dim3(static_cast<unsigned>(clusters * call.ranks)), dim3(static_cast<unsigned>(call.ranks)),
                  T::kThreads, prepared.shared, stream, call);
}

}  // namespace

int choose_batch_ranks(int blocks, int chunks, int64_t chunk_bytes, int multiprocessors) {
  const int64_t all = static_cast<int64_t>(blocks) * chunks;
  if (all > kMostClusterChunks || all * chunk_bytes > kMostClusterBytes) return 0;
  // What a block does, in chunks of 16 rows: its weights, its columns of x, which come once a tile, and joins.
  constexpr int kColumnsCost = 2;
  constexpr int kJoinCost = 8;
  const auto divided = [](int a, int b) { return (a + b - 1) / b; };
  int best = 1;
  int least = INT_MAX;
  for (int ranks = 1; ranks <= 8 && ranks <= chunks; ranks *= 2) {
    const int rows = divided(blocks, std::max(2 * multiprocessors / ranks, 1));
    const int tiles = divided(rows, kRowBlocks);
    const int cost = divided(chunks, ranks) * (rows + kColumnsCost * tiles) + kJoinCost * tiles;
    if (cost < least) best = ranks;
    least = std::min(least, cost);
  }
  return best > 1 ? best : 0;  // a block alone sends nothing to itself
}

void cluster_linear(cudaStream_t stream, int encoding, int scaling, const BatchCall& call) {
  with_format(encoding, scaling, [&](auto e, auto s) {
    const int columns = call.matrix.tokens * call.copies;
    constexpr Encoding kEncoding = decltype(e)::value;
    constexpr Scaling kScaling = decltype(s)::value;
    constexpr int kCopies = kEncoding == Encoding::kBF16 ? 2 : 1;
    const auto go = [&](auto of_tile) { launch_cluster<kEncoding, kScaling, of_tile.value, kCopies>(stream, call); };
    if (columns <= 8 * kCopies)
      go(Number<8 * kCopies>());
    else if (columns <= 16 * kCopies)
      go(Number<16 * kCopies>());
    else if (columns <= 32 * kCopies)
      go(Number<32 * kCopies>());
    else
      go(Number<64 * kCopies>());
  });
}

}  // namespace edgewise::cuda
