// Attention on tensor cores, for caches of 16 and 8 bits: the same tiles as in attention.cu, walked as
// attention_pages.cuh has it.
#include <algorithm>

#include "backends/cuda/attention_fresh.cuh"
#include "backends/cuda/attention_join.cuh"
#include "backends/cuda/attention_pages.cuh"

namespace edgewise::cuda {
namespace {

// What a tile knows of its place, where the kernel before this one still runs.
__device__ inline void bring_tile_near(const AttendCall& call) {
  if (threadIdx.x != 0) return;
  const auto* tile = reinterpret_cast<const char*>(call.tiles + blockIdx.x);
  prefetch_line(tile);
  prefetch_line(tile + sizeof(AttendTile) - 1);
  prefetch_line(call.tile_count);
}

// The warps' states as results, or as this block's part of them.
template <int kBlocks>
__device__ inline void leave_states(const KvLayer& layer, const AttendCall& call, const AttendTile& tile, int kv_head,
                                    const float* states) {
  constexpr int kWarps = most_warps(kBlocks);
  const int warps = blockDim.x / 32;
  const int group = call.q_heads / layer.kv_heads;
  const int dim = layer.head_dim;
  const int queries = tile.rows * group;
  for (int query = threadIdx.x / 32; query < queries; query += warps) {
    const int head = kv_head * group + query % group;
    float* partial = partial_state(call, tile.slot, head, query / group, dim);
    float* out = call.out + (static_cast<int64_t>(tile.first_row + query / group) * call.q_heads + head) * dim;
    float all = 0;
    const auto rest = [&](float most, float sum) {
      all = sum;
      if (tile.splits == 1 || threadIdx.x % 32 != 0) return;
      partial[dim] = most;
      partial[dim + 1] = sum;
    };
    const auto value = [&](int column, float x) {
      if (tile.splits > 1)
        partial[column] = x;
      else
        out[column] = x / all;
    };
    join_warps<kBlocks, kWarps>(states, queries, query, dim, rest, value, warps);
  }
}

template <int kBlocks>
using Memory = FreshMemory<kBlocks * 64, most_warps(kBlocks)>;

// kBlocks: head_dim in units of 64 columns, rounded up.
template <typename T, int kBlocks>
__global__ void __launch_bounds__(most_warps(kBlocks) * 32)
    attend_mma_kernel(const KvLayer layer, const AttendCall call) {
  constexpr int kSteps = 2 * kBlocks;  // of 32 columns of a key
  bring_tile_near(call);
  wait_for_inputs();
  const AttendTile tile = call.tiles[blockIdx.x];  // on its way while the count is
  if (static_cast<int>(blockIdx.x) >= *call.tile_count) return;
  const int kv_head = static_cast<int>(blockIdx.y);
  const int group = call.q_heads / layer.kv_heads;
  const int dim = layer.head_dim;
  __shared__ uint4 operands[2][kSteps * 2][32];
  extern __shared__ __align__(16) float states[];
  bring_pages_near<T>(layer, call, tile, kv_head);
  // Lies where states come later, and its angles where operands do.
  auto& memory = *reinterpret_cast<Memory<kBlocks>*>(states);
  const bool fresh = call.heads.slots != nullptr;
  if (fresh) {
    static_assert(sizeof(operands) == sizeof(float) * kTileQueries * kBlocks * 64);
    const FreshTile<T, kBlocks * 64, most_warps(kBlocks)> rows{layer,   call,   tile,
                                                               kv_head, memory, reinterpret_cast<float*>(operands)};
    rows.bring();
    __syncthreads();
    rows.walk();
    __syncthreads();
  }
  const auto head_of = [&](int query) -> const float* {
    if (fresh) return memory.queries[query];
    const int64_t row = tile.first_row + query / group;
    return call.q + (row * call.q_heads + kv_head * group + query % group) * dim;
  };
  stage_queries<Cache<T>::kBF16, kSteps>(
      operands[0], operands[1], tile.rows * group, dim, call.scale, static_cast<int>(blockDim.x),
      [&](int query, int column) { return *reinterpret_cast<const float2*>(head_of(query) + column); });
  __syncthreads();
  const AttendRule rule{call.softcap, call.window, group, call.positions, call.masks, call.tiles + blockIdx.x,
                        call.pages};
  attend_pages<T, kBlocks>(layer, rule, tile, kv_head, operands[0], operands[1], states);
  __syncthreads();
  leave_states<kBlocks>(layer, call, tile, kv_head, states);
  if (tile.splits > 1) join_group(call, tile, kv_head, layer.kv_heads, dim);
}

template <int kBlocks>
constexpr size_t kStaticBytes = sizeof(uint4) * 2 * 4 * kBlocks * 32 + 128;  // operands of queries, and little else
// Of a block, for so many warps' states.
template <int kBlocks>
constexpr size_t shared_bytes(int warps) {
  const size_t states = sizeof(float) * static_cast<size_t>(warps) * kTileQueries * (kBlocks * 64 + 2);
  return kStaticBytes<kBlocks> + std::max(states, sizeof(Memory<kBlocks>));
}

template <typename T, int kBlocks>
void attend_dim(cudaStream_t stream, const KvLayer& layer, const AttendCall& call) {
  // As many turns as there is shared memory for.
  static const int warps = [] {
    int device = 0, most = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    int turns = most_turns(kBlocks);
    while (turns > 1 && shared_bytes<kBlocks>(turns * kPageWarps) > static_cast<size_t>(most)) --turns;
    // Where this fails the launch does too, in every step, and the step says so.
    const auto kernel = attend_mma_kernel<T, kBlocks>;
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         static_cast<int>(shared_bytes<kBlocks>(turns * kPageWarps) - kStaticBytes<kBlocks>));
    return turns * kPageWarps;
  }();
  const dim3 grid(static_cast<unsigned>(call.most_tiles), static_cast<unsigned>(layer.kv_heads));
  launch(attend_mma_kernel<T, kBlocks>, grid, warps * 32, shared_bytes<kBlocks>(warps) - kStaticBytes<kBlocks>, stream,
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
