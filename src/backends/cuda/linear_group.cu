// Products of 5 to 64 tokens on compute capability 9.0. A block of threads has a multiprocessor for itself: four of its
// warps keep weights and x coming to shared memory (cp.async.bulk), the others multiply. Blocks are clusters where
// columns are shared out: a cluster has some of the rows, its blocks some of the columns each, and of small tiles the
// warpgroups take stages in turns. How columns are shared out depends on the matrix alone, and so does the order of a
// sum.
#include <algorithm>
#include <array>
#include <climits>

#include "backends/cuda/group_join.cuh"
#include "backends/cuda/kernels.h"

namespace edgewise::cuda {
namespace {

template <int kValue>
using Number = std::integral_constant<int, kValue>;

template <typename T>
__device__ inline void multiply_tiles(const GroupCall& call, const GroupOrder& order, const char* stages,
                                      const GroupBarriers& barriers, const GroupInbox<T>& inbox) {
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int ways = call.batch.group.ways;
  const int groups = T::kGroups / ways;  // that have the same columns
  const int way = warp / 4 / groups;
  const int block = warp / 4 % groups * kGroupBlocks + warp % 4;  // of 16 rows, in the tile
  const bool whole = ways * call.batch.group.ranks == 1;
  const uint32_t full = shared_address(barriers.full);
  const uint32_t empty = shared_address(barriers.empty);
  ProductOf<T> product(call.batch, min(block, call.height - 1));  // behind the last rows nothing comes of it
  RingPlace place;
  int read = -1;  // stage that may still be read
  const auto release = [&] {
    if (read < 0) return;
    __syncwarp();
    if (threadIdx.x % 32 == 0)
      asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(empty + read * 8) : "memory");
    read = -1;
  };
#pragma unroll 1
  for (int tile = 0; tile < order.tiles; ++tile) {
    const int height = order.height(tile);
    const bool idle = way >= ways || block - warp % 4 >= height;  // the whole warpgroup
    int turn = 0;
#pragma unroll 1
    for (int chunk = order.chunk_begin; chunk < order.chunk_end; chunk += T::kChunks) {
      // Who skipped a stage could mistake the turn of another.
      wait_for(full + place.slot * 8, place.parity);
      if (turn == way && !idle) {
        product.add_stage(stages + place.slot * call.stage_bytes, chunk, order.chunk_end, release);
      } else {
        product.finish();
        release();
      }
      read = place.slot;
      turn = turn + 1 == ways ? 0 : turn + 1;
      place.advance(call.stages);
    }
    product.finish();
    release();
    if (!whole) inbox.wait_for_others();
    if (block < height && way < ways) {
      if (whole)
        write_rows<T>(call.batch, order.block_begin(tile) + block, product);
      else
        for_sums<T>(call.batch, product, [&](int token, int row, float sum) {
          inbox.send(order.rank * ways + way, token, block * 16 + row, sum);
        });
    }
    product.clear();
  }
  if (!whole) inbox.receive(call.batch, order, ways * call.batch.group.ranks);
}

template <Encoding kEncoding, Scaling kScaling, int kColumns, int kCopies>
__global__ void __launch_bounds__((GroupTile<kEncoding, kScaling, kColumns, kCopies>::kBoundThreads), 1)
    group_kernel(const __grid_constant__ GroupCall call) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using T = GroupTile<kEncoding, kScaling, kColumns, kCopies>;
  extern __shared__ char shared[];
  __shared__ GroupBarriers barriers;
  char* stages = shared + (kStageAlignment - shared_address(shared) % kStageAlignment) % kStageAlignment;
  const GroupOrder order(call);
  if (threadIdx.x == 0) {
    for (int i = 0; i < call.stages; ++i) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barriers.full + i)) : "memory");
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barriers.empty + i)),
                   "n"(T::kGroups * 4)
                   : "memory");
    }
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&barriers.inbox)) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  __syncthreads();
  const GroupInbox<T> inbox(stages + call.stages * call.stage_bytes, &barriers.inbox, call.inbox_shift,
                            call.batch.group.ranks == 1);
  // Those who multiply need most of the block's registers.
  if (threadIdx.x >= T::kThreads) {
    if constexpr (!T::kByWarps) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(T::kFeedRegisters));
    GroupFeed<T>(call, order, shared_address(stages), barriers).run();
    return inbox.wait_for_others();
  }
  if constexpr (!T::kByWarps) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(T::kGroupRegisters));
  wait_for_inputs();
  multiply_tiles<T>(call, order, stages, barriers, inbox);
  if (call.batch.group.ways * call.batch.group.ranks == 1) inbox.wait_for_others();
#endif
}

constexpr int kMostShared = 224 << 10;  // of a block, so that one of prepare_columns() finds room beside it

// How many clusters of so many blocks the GPU holds at once: 2, 4 and 8.
template <typename Kernel>
int find_clusters(Kernel kernel, int threads, int ranks, int multiprocessors) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(multiprocessors / ranks * ranks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = kMostShared - sizeof(GroupBarriers) - 256;
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {static_cast<unsigned>(ranks), 1, 1};
  config.attrs = &attribute;
  config.numAttrs = 1;
  int found = 0;
  if (cudaOccupancyMaxActiveClusters(&found, kernel, &config) != cudaSuccess || found <= 0) found = 1;
  return found;
}

constexpr int divided(int a, int b) { return (a + b - 1) / b; }

template <Encoding kEncoding, Scaling kScaling, int kColumns, int kCopies>
void launch_group(cudaStream_t stream, const BatchCall& batch) {
  using T = GroupTile<kEncoding, kScaling, kColumns, kCopies>;
  const auto kernel = group_kernel<kEncoding, kScaling, kColumns, kCopies>;
  // Where a kernel cannot have its shared memory its launch fails, in every step, and the step says so.
  constexpr int kShared = kMostShared - static_cast<int>(sizeof(GroupBarriers)) - 256;
  static const auto clusters_at_once = [&] {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
    cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
    std::array<int, 4> found = {batch.multiprocessors};
    for (int i = 1; i < 4; ++i)
      found[static_cast<size_t>(i)] = find_clusters(kernel, T::kAllThreads, 1 << i, batch.multiprocessors);
    return found;
  }();
  const auto [ranks, ways] = batch.group;
  const int blocks = batch.matrix.blocks;
  const auto inbox_shift = [&, ranks = ranks](int height) {
    int shift = 0;
    while (ranks << shift < height) ++shift;
    return shift;
  };
  const auto inbox_bytes = [&, ranks = ranks, ways = ways](int height) {
    return ranks * ways == 1 ? 0 : ranks * ways * T::kTokens * (16 << inbox_shift(height)) * 4;
  };
  constexpr int kRoom = kShared - kStageAlignment;
  int most = T::kGroups / ways * kGroupBlocks;                          // of a tile
  while (inbox_bytes(most) + 2 * T::stage_bytes(most) > kRoom) --most;  // a warp gives one back when it has the next
  int clusters = std::min(clusters_at_once[static_cast<size_t>((ranks > 1) + (ranks > 2) + (ranks > 4))], blocks);
  if (ranks * ways > 1) clusters = std::max(clusters, divided(blocks, most));  // inboxes are for one tile
  GroupCall call;
  call.batch = batch;
  const int rows = divided(blocks, clusters);
  call.tiles = divided(rows, most);
  call.height = divided(rows, call.tiles);
  call.stage_bytes = T::stage_bytes(call.height);
  call.inbox_shift = inbox_shift(call.height);
  const int inbox = inbox_bytes(call.height);
  const int steps = call.tiles * divided(divided(batch.matrix.chunks, ranks), T::kChunks);
  call.stages = std::min({(kRoom - inbox) / call.stage_bytes, kMostGroupStages, steps});
  const int bytes = kStageAlignment + call.stages * call.stage_bytes + inbox;
  launch_clusters(kernel, dim3(static_cast<unsigned>(clusters * ranks)), dim3(static_cast<unsigned>(ranks)),
                  T::kAllThreads, static_cast<size_t>(bytes), stream, call);
}

}  // namespace

GroupShape choose_group_shape(int blocks, int chunks, int multiprocessors) {
  // What a block does, in chunks of 16 rows: its weights, its columns of x, which come once a tile, and joins.
  constexpr int kJoinCost = 8;
  constexpr int kLeastTileBlocks = 4 * kGroupBlocks;  // of kernels for many tokens
  GroupShape best;
  int least = INT_MAX;
  for (int ranks = 1; ranks <= 8 && ranks <= chunks; ranks *= 2) {
    // Clusters of 4 and 8 leave some multiprocessors idle: on an H200 12 of 132.
    const int usable = ranks < 4 ? multiprocessors : multiprocessors * 10 / 11;
    const int rows = divided(blocks, std::max(usable / ranks, 1));
    const int tiles = divided(rows, kLeastTileBlocks);
    if (ranks > 1 && tiles > 1) continue;
    const int ways = ranks > 1 || tiles == 1 ? (rows <= kGroupBlocks ? 4 : rows <= 2 * kGroupBlocks ? 2 : 1) : 1;
    const int cost = divided(chunks, ranks) * (rows + tiles) + (ranks > 1 ? kJoinCost + rows : 0);
    if (cost >= least) continue;
    best = {ranks, ways};
    least = cost;
  }
  return best;
}

int group_columns(int tokens, int copies) {
  int columns = 8 * copies;
  while (columns < tokens * copies) columns *= 2;
  return columns;
}

void group_linear(cudaStream_t stream, int encoding, int scaling, const BatchCall& call) {
  with_format(encoding, scaling, [&](auto e, auto s) {
    constexpr Encoding kEncoding = decltype(e)::value;
    constexpr Scaling kScaling = decltype(s)::value;
    constexpr int kCopies = kEncoding == Encoding::kBF16 ? 2 : 1;
    const auto go = [&](auto of_tile) { launch_group<kEncoding, kScaling, of_tile.value, kCopies>(stream, call); };
    switch (group_columns(call.matrix.tokens, kCopies) / kCopies) {
      case 8:
        return go(Number<8 * kCopies>());
      case 16:
        return go(Number<16 * kCopies>());
      case 32:
        return go(Number<32 * kCopies>());
      default:
        return go(Number<64 * kCopies>());
    }
  });
}

}  // namespace edgewise::cuda
