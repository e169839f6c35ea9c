// Attention on tensor cores, for caches of 16 and 8 bits: the same tiles as in attention.cu, walked as
// attention_pages.cuh has it. A block takes one tile for one key head after another, and asks for what it needs of the
// next one while it ends the one before.
#include <algorithm>

#include "backends/cuda/attention_fresh.cuh"
#include "backends/cuda/attention_join.cuh"
#include "backends/cuda/attention_pages.cuh"

namespace edgewise::cuda {
namespace {

// States of a tile's query, and warps of a block, at most.
constexpr int states_of(int blocks) { return page_turns(blocks) * kPageWarps; }
constexpr int kNarrow = 32 * kPageWarps;  // threads of a block where tiles are many
constexpr int kWide = 2 * kNarrow;        // where they are few
// Threads that registers leave room for on a multiprocessor. Small heads want many where tiles are many.
constexpr int bound_of(int blocks, int threads) {
  return blocks > 1 ? 2 * kNarrow : (threads == kWide ? 3 : 4) * kNarrow;
}

// A block's share of the work: neighbouring pieces, which are a key head and a tile each, tiles by turns.
struct Pieces {
  int kv_head;
  int tile;
  int left;   // with it
  int tiles;  // of the step

  __device__ void advance() {
    --left;
    if (++tile < tiles) return;
    tile = 0;
    ++kv_head;
  }
};

// A tile on its way to shared memory.
__device__ inline void bring_tile(const AttendTile* from, AttendTile* to) {
  if (threadIdx.x < sizeof(AttendTile) / 16)
    copy_word(shared_address(to) + threadIdx.x * 16, reinterpret_cast<const uint4*>(from) + threadIdx.x);
  end_stage();
}

// The first tile is on its way then. Where blocks have a piece each, it is known before the count of tiles is.
__device__ inline Pieces share_out(const AttendCall& call, int kv_heads, AttendTile* to) {
  const auto block = static_cast<int>(blockIdx.x);
  const auto blocks = static_cast<int>(gridDim.x);
  const bool one_each = blocks == call.most_tiles * kv_heads;
  const Divisor by_heads(kv_heads);
  Pieces pieces{by_heads.rest(block), by_heads.quotient(block), 1, 1};
  if (one_each) bring_tile(call.tiles + pieces.tile, to);
  pieces.tiles = *call.tile_count;
  if (one_each) {
    if (pieces.tile >= pieces.tiles) pieces.left = 0;
    return pieces;
  }
  const int all = pieces.tiles * kv_heads;
  const int first = all * block / blocks;
  pieces.left = all * (block + 1) / blocks - first;
  pieces.kv_head = first / pieces.tiles;
  pieces.tile = first % pieces.tiles;
  if (pieces.left > 0) bring_tile(call.tiles + pieces.tile, to);
  return pieces;
}

template <int kBlocks>
using Memory = FreshMemory<kBlocks * 64, states_of(kBlocks)>;

// The tile's queries as operands in shared memory, and what they see. Where they come as Linears left them, the
// sequence's cache grows too by what lies in the tile's pages.
template <typename T, int kBlocks>
__device__ inline void make_queries(const KvLayer& layer, const AttendCall& call, const AttendRule& rule,
                                    const AttendTile& tile, int kv_head, Memory<kBlocks>& memory, RowView* views,
                                    uint4 (*operands)[4 * kBlocks][32]) {
  const bool fresh = call.heads.slots != nullptr;
  if (fresh) {
    // Angles lie where operands come later.
    static_assert(sizeof(operands[0]) * 2 == sizeof(float) * kTileQueries * kBlocks * 64);
    const FreshTile<T, kBlocks * 64, states_of(kBlocks)> rows{
        layer, call, tile, kv_head, rule.group, memory, reinterpret_cast<float*>(operands)};
    rows.bring();
    __syncthreads();
    rows.walk();
    __syncthreads();
  }
  const Divisor by_group(rule.group);
  const auto head_of = [&](int query) -> const float* {
    if (fresh) return memory.queries[query];
    const int64_t row = tile.first_row + by_group.quotient(query);
    return call.q + (row * call.q_heads + kv_head * rule.group + by_group.rest(query)) * layer.head_dim;
  };
  if (threadIdx.x < kTileQueries) views[threadIdx.x] = view_of(rule, tile, static_cast<int>(threadIdx.x));
  stage_queries<Cache<T>::kBF16, 2 * kBlocks>(
      operands[0], operands[1], tile.rows * rule.group, layer.head_dim, call.scale, static_cast<int>(blockDim.x),
      halves_of(kBlocks, tile.rows * rule.group),
      [&](int query, int column) { return *reinterpret_cast<const float2*>(head_of(query) + column); });
  __syncthreads();
}

// The warps' states as results, or as this block's part of them.
template <int kBlocks>
__device__ inline void finish(const KvLayer& layer, const AttendCall& call, const AttendRule& rule,
                              const AttendTile& tile, int kv_head, const float* states) {
  const Divisor by_group(rule.group);
  const int warps = static_cast<int>(blockDim.x) / 32;
  const int dim = layer.head_dim;
  const int queries = tile.rows * rule.group;
#pragma unroll 1
  for (int query = static_cast<int>(threadIdx.x) / 32; query < queries; query += warps) {
    const int row = by_group.quotient(query);
    const int head = kv_head * rule.group + by_group.rest(query);
    float* partial = partial_state(call, tile.slot, head, row, dim);
    float* out = call.out + (static_cast<int64_t>(tile.first_row + row) * call.q_heads + head) * dim;
    float all = 0;
    const auto rest = [&](float most, float sum) {
      all = sum;
      if (tile.splits > 1 && threadIdx.x % 32 == 0) *reinterpret_cast<float2*>(partial + dim) = {most, sum};
    };
    const auto value = [&](int column, const float(&x)[4]) {
      if (tile.splits > 1) {
        *reinterpret_cast<float2*>(partial + column) = {x[0], x[1]};
        *reinterpret_cast<float2*>(partial + column + 2) = {x[2], x[3]};
      } else {
        *reinterpret_cast<float4*>(out + column) = {x[0] / all, x[1] / all, x[2] / all, x[3] / all};
      }
    };
    join_warps<kBlocks, states_of(kBlocks), 4>(states, queries, query, dim, rest, value);
  }
}

// kBlocks: head_dim in units of 64 columns, rounded up.
template <typename T, int kBlocks, int kBound>
__global__ void __launch_bounds__(kBound) attend_mma_kernel(const KvLayer layer, const AttendCall call) {
  __shared__ uint4 operands[2][4 * kBlocks][32];
  __shared__ RowView views[kTileQueries];
  __shared__ AttendTile tiles[3];  // the one before, this one, and the next one
  __shared__ bool last;
  extern __shared__ __align__(16) float states[];
  wait_for_inputs();
  Pieces pieces = share_out(call, layer.kv_heads, tiles);
  if (pieces.left == 0) return;
  wait_stages<0>();
  __syncthreads();
  const int group = Divisor(layer.kv_heads).quotient(call.q_heads);
  const AttendRule rule{call.softcap, call.window, group, call.positions, call.masks, call.pages};
  PageWalk<T, kBlocks> pages(layer, rule, views, operands[0], operands[1]);
  pages.begin(tiles[0], pieces.kv_head);
  bool same_queries = false;
  int head_before = -1;  // where others have parts of the tile before
  int arrived = 0;       // of those, for thread 0, which need not wait for the number while the block walks on
  for (int i = 0, before = 2; pieces.left > 0 || head_before >= 0; before = i, i = (i + 1) % 3) {
    const bool more = pieces.left > 0;
    const AttendTile& tile = tiles[i];
    const AttendTile& next = tiles[(i + 1) % 3];
    const int kv_head = pieces.kv_head;
    if (more) {
      pieces.advance();
      if (pieces.left > 0) bring_tile(call.tiles + pieces.tile, &tiles[(i + 1) % 3]);
      if (!same_queries)
        make_queries<T, kBlocks>(layer, call, rule, tile, kv_head, reinterpret_cast<Memory<kBlocks>&>(*states), views,
                                 operands);
      pages.walk(states);
      wait_stages<0>();
    }
    if (threadIdx.x == 0) last = head_before >= 0 && arrived == tiles[before].splits - 1;
    __syncthreads();
    if (last) join_group(call, tiles[before], head_before, layer.kv_heads, layer.head_dim);
    head_before = -1;
    if (!more) continue;
    if (pieces.left > 0) {
      pages.begin(next, pieces.kv_head);
      same_queries = pieces.kv_head == kv_head && next.first_row == tile.first_row &&
                     (call.heads.slots == nullptr || next.page_end * kPageSlots <= next.kv_length);
    }
    finish<kBlocks>(layer, call, rule, tile, kv_head, states);
    __syncthreads();  // states may go
    if (tile.splits == 1) continue;
    head_before = kv_head;
    if (threadIdx.x == 0) arrived = arrive(call, tile, kv_head, layer.kv_heads);
  }
}

// How a kernel is launched with blocks of so many threads.
struct Launch {
  void (*kernel)(KvLayer, AttendCall);
  int threads;
  int most_blocks;  // that run on this GPU at once

  Launch(void (*of_kernel)(KvLayer, AttendCall), int of_threads, size_t shared)
      : kernel(of_kernel), threads(of_threads) {
    int device = 0, multiprocessors = 0, of_one = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    // Where this fails the launch does too, in every step, and the step says so.
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    cudaOccupancyMaxActiveBlocksPerMultiprocessor(&of_one, kernel, threads, shared);
    most_blocks = multiprocessors * std::max(of_one, 1);
  }
};

template <typename T, int kBlocks>
void attend_dim(cudaStream_t stream, const KvLayer& layer, const AttendCall& call) {
  constexpr size_t kStateBytes = sizeof(float) * states_of(kBlocks) * kTileQueries * state_floats(kBlocks);
  constexpr size_t kShared = std::max(kStateBytes, sizeof(Memory<kBlocks>));
  constexpr int kMostThreads = 32 * states_of(kBlocks);
  static const Launch wide(attend_mma_kernel<T, kBlocks, bound_of(kBlocks, kMostThreads)>, kMostThreads, kShared);
  static const Launch narrow(attend_mma_kernel<T, kBlocks, bound_of(kBlocks, kNarrow)>, kNarrow, kShared);
  const int pieces = call.most_tiles * layer.kv_heads;
  const Launch& how = pieces <= wide.most_blocks ? wide : narrow;
  launch(how.kernel, dim3(static_cast<unsigned>(std::min(pieces, how.most_blocks))), how.threads, kShared, stream,
         layer, call);
}

template <typename T>
void attend_typed(cudaStream_t stream, const KvLayer& layer, const AttendCall& call) {
  if (layer.head_dim <= 64)
    attend_dim<T, 1>(stream, layer, call);
  else if (layer.head_dim <= 128)
    attend_dim<T, 2>(stream, layer, call);
  else
    attend_dim<T, 4>(stream, layer, call);
}

}  // namespace

bool attends_on_tensor_cores(const KvLayer& layer) { return layer.type != KvType::kF32 && layer.head_dim % 8 == 0; }

void attend_mma(cudaStream_t stream, const KvLayer& layer, const AttendCall& call) {
  switch (layer.type) {
    case KvType::kF16:
      return attend_typed<__half>(stream, layer, call);
    case KvType::kInt8:
      return attend_typed<int8_t>(stream, layer, call);
    case KvType::kF8:
      return attend_typed<__nv_fp8_e4m3>(stream, layer, call);
    default:
      return attend_typed<__nv_bfloat16>(stream, layer, call);
  }
}

}  // namespace edgewise::cuda
