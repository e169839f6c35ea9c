// Attention on tensor cores, for caches of 16 and 8 bits: the same tiles as in attention.cu, walked as
// attention_tile.cuh has it.
#include "backends/cuda/attention_join.cuh"
#include "backends/cuda/attention_tile.cuh"

namespace edgewise::cuda {
namespace {

constexpr int kWarps = 4;

// kBlocks: head_dim in units of 64 columns, rounded up.
template <typename T, int kBlocks>
__global__ void __launch_bounds__(kWarps * 32) attend_mma_kernel(const KvLayer layer, const AttendCall call) {
  constexpr int kSteps = 2 * kBlocks;  // of 32 columns of a key
  wait_for_inputs();
  let_next_start();
  const AttendTile tile = call.tiles[blockIdx.x];  // on its way while the count is
  if (static_cast<int>(blockIdx.x) >= *call.tile_count) return;
  const int kv_head = static_cast<int>(blockIdx.y);
  const int group = call.q_heads / layer.kv_heads;
  const int dim = layer.head_dim;
  const int queries = tile.rows * group;
  const auto query_row = [&](int query) { return static_cast<int64_t>(tile.first_row + query / group); };
  const auto query_head = [&](int query) { return kv_head * group + query % group; };
  const auto place = [&](int query) { return (query_row(query) * call.q_heads + query_head(query)) * dim; };

  __shared__ uint4 q_high[kSteps * 2][32];
  __shared__ uint4 q_low[kSteps * 2][32];
  extern __shared__ float states[];
  stage_queries<Cache<T>::kBF16, kSteps>(q_high, q_low, queries, dim, call.scale, [&](int query, int column) {
    return *reinterpret_cast<const float2*>(call.q + place(query) + column);
  });
  __syncthreads();
  const AttendRule rule{call.softcap, call.window, group, call.positions, call.masks, call.tiles + blockIdx.x,
                        call.pages};
  attend_pages<T, kBlocks, kWarps>(layer, rule, tile, kv_head, q_high, q_low, states);
  __syncthreads();
  for (int query = threadIdx.x / 32; query < queries; query += kWarps) {
    float* partial = partial_state(call, tile.slot, query_head(query), query / group, dim);
    float* out = call.out + place(query);
    float all = 0;
    const auto rest = [&](float most, float sum) {
      all = sum;
      if (tile.splits == 1 || threadIdx.x % 32 != 0) return;
      partial[dim] = most;
      partial[dim + 1] = sum;
    };
    join_warps<kBlocks, kWarps>(states, queries, query, dim, rest, [&](int column, float value) {
      if (tile.splits > 1)
        partial[column] = value;
      else
        out[column] = value / all;
    });
  }
  if (tile.splits > 1) join_group(call, tile, kv_head, layer.kv_heads, dim);
}

template <typename T, int kBlocks>
void attend_dim(cudaStream_t stream, const KvLayer& layer, const AttendCall& call) {
  const size_t shared = sizeof(float) * kWarps * kTileQueries * (kBlocks * 64 + 2);
  // Where this fails the launch does too, in every step, and the step says so.
  [[maybe_unused]] static const bool raised =
      cudaFuncSetAttribute(attend_mma_kernel<T, kBlocks>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(shared)) == cudaSuccess;
  const dim3 grid(static_cast<unsigned>(call.most_tiles), static_cast<unsigned>(layer.kv_heads));
  launch(attend_mma_kernel<T, kBlocks>, grid, kWarps * 32, shared, stream, layer, call);
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
