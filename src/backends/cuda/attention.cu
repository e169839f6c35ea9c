// Attention over the pages of the KV cache, by softmax over one page after another (FlashAttention, arXiv:2205.14135).
//
// A thread block takes a tile: some rows of a sequence, all query heads that share one key head, and a range of pages.
// Where a history is shared out to several blocks, each leaves its softmax's state and the last joins them (Flash
// Decoding). Slots are visited in order, so what a row computes does not depend on what else is in the step.
#include <climits>

#include "backends/cuda/attention_head.cuh"
#include "backends/cuda/attention_join.cuh"
#include "backends/cuda/attention_kernels.h"
#include "backends/cuda/device_code.cuh"

namespace edgewise::cuda {
namespace {

constexpr int kPage = kPageSlots;
constexpr int kThreads = 128;
constexpr int kMostQueries = 16;  // rows * heads of a tile
constexpr int kMostDim = 256;

// A warp a head of a row.
template <typename T>
__global__ void append_kernel(KvLayer layer, const float* k, const float* v, const int32_t* slots, int rows) {
  wait_for_inputs();
  const int unit = static_cast<int>(blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32);
  if (unit >= 2 * rows * layer.kv_heads) return;
  const bool is_value = unit >= rows * layer.kv_heads;
  const int of_kind = is_value ? unit - rows * layer.kv_heads : unit;
  store_head<T>(layer, is_value, slots[of_kind / layer.kv_heads], of_kind % layer.kv_heads,
                (is_value ? v : k) + static_cast<int64_t>(of_kind) * layer.head_dim, threadIdx.x % 32);
}

template <typename T>
__global__ void prepare_heads_kernel(KvLayer layer, FreshHeads fresh, int rows, float* q_out) {
  wait_for_inputs();
  __shared__ float heads[kThreads / 32][kMostDim];
  const HeadPath& q = fresh.q;
  const HeadPath& k = fresh.k;
  const int lane = threadIdx.x % 32;
  const int unit = static_cast<int>(blockIdx.x * (kThreads / 32) + threadIdx.x / 32);
  const int all = q.heads + 2 * layer.kv_heads;
  if (unit >= rows * all) return;
  const int row = unit / all;
  const int head = unit % all;
  const int dim = layer.head_dim;
  if (head < q.heads) {
    const int64_t at = (static_cast<int64_t>(row) * q.heads + head) * dim;
    return walk_path(q, q.x + at, row, dim, lane, q_out + at);
  }
  const bool is_value = head >= q.heads + layer.kv_heads;
  const int kv_head = (head - q.heads) % layer.kv_heads;
  const int64_t at = (static_cast<int64_t>(row) * layer.kv_heads + kv_head) * dim;
  const float* from = fresh.v + at;
  if (!is_value) {
    walk_path(k, k.x + at, row, dim, lane, heads[threadIdx.x / 32]);
    __syncwarp();
    from = heads[threadIdx.x / 32];
  }
  store_head<T>(layer, is_value, fresh.slots[row], kv_head, from, lane);
}

// One head of a page as float32 rows of `stride`, scales applied.
template <typename T>
__device__ inline void load_page(const T* pages, const float* scales, int64_t head, int dim, int stride, float* to) {
  const T* from = pages + head * kPage * dim;
  for (int i = threadIdx.x; i < kPage * dim; i += kThreads) {
    float value = to_float(from[i]);
    if constexpr (kLargestCode < T >> 0) value *= scales[head * kPage + i / dim];
    to[i / dim * stride + i % dim] = value;
  }
}

// Whether a row sees a slot.
__device__ inline bool sees(const AttendCall& call, const AttendTile& tile, int row, int slot) {
  const int position = call.positions[row];
  int key_position = slot;
  if (slot >= tile.tree_begin) {
    const int bit = slot - tile.tree_begin;
    const uint64_t mask = call.masks[row];
    if (bit >= 64 || (mask >> bit & 1) == 0) return false;
    key_position = tile.tree_begin + __popcll(mask & ((uint64_t{1} << bit) - 1));
  }
  return key_position <= position && (call.window == 0 || position - key_position < call.window);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) attend_kernel(KvLayer layer, AttendCall call) {
  wait_for_inputs();
  if (static_cast<int>(blockIdx.x) >= *call.tile_count) return;
  const AttendTile tile = call.tiles[blockIdx.x];
  const int kv_head = static_cast<int>(blockIdx.y);
  const int group = call.q_heads / layer.kv_heads;
  const int dim = layer.head_dim;
  const int stride = dim + 1;
  const int queries = tile.rows * group;
  extern __shared__ float shared[];
  float* q = shared;                    // [queries][dim]
  float* kv = q + kMostQueries * dim;   // [64][stride]
  float* scores = kv + kPage * stride;  // [queries][64]
  float* largest = scores + kMostQueries * kPage;
  float* sum = largest + kMostQueries;
  float* shrink = sum + kMostQueries;
  const auto query_row = [&](int query) { return static_cast<int64_t>(tile.first_row + query / group); };
  const auto query_head = [&](int query) { return kv_head * group + query % group; };
  for (int i = threadIdx.x; i < queries * dim; i += kThreads)
    q[i] = call.q[(query_row(i / dim) * call.q_heads + query_head(i / dim)) * dim + i % dim];
  if (threadIdx.x < kMostQueries) {
    largest[threadIdx.x] = -INFINITY;
    sum[threadIdx.x] = 0;
  }
  float values[kMostQueries][kMostDim / kThreads] = {};
  for (int p = tile.page_begin; p < tile.page_end; ++p) {
    const int64_t head = static_cast<int64_t>(call.pages[tile.page_table + p]) * layer.kv_heads + kv_head;
    __syncthreads();
    load_page(static_cast<const T*>(layer.keys), layer.key_scales, head, dim, stride, kv);
    __syncthreads();
    for (int i = threadIdx.x; i < queries * kPage; i += kThreads) {
      const int query = i / kPage;
      const int slot = i % kPage;
      float score = 0;
      for (int j = 0; j < dim; ++j) score = fmaf(q[query * dim + j], kv[slot * stride + j], score);
      score *= call.scale;
      if (call.softcap > 0) score = call.softcap * tanhf(score / call.softcap);
      scores[i] = sees(call, tile, tile.first_row + query / group, p * kPage + slot) ? score : -INFINITY;
    }
    __syncthreads();
    load_page(static_cast<const T*>(layer.values), layer.value_scales, head, dim, stride, kv);
    for (int query = threadIdx.x / 32; query < queries; query += kThreads / 32) {
      const int lane = threadIdx.x % 32;
      float* row = scores + query * kPage;
      const float before = largest[query];
      const float now = fmaxf(before, combine_warp(fmaxf(row[lane], row[lane + 32]), Largest()));
      const float a = now == -INFINITY ? 0.0f : expf(row[lane] - now);
      const float b = now == -INFINITY ? 0.0f : expf(row[lane + 32] - now);
      row[lane] = a;
      row[lane + 32] = b;
      const float more = combine_warp(a + b, Sum());
      __syncwarp();  // all have read what lane 0 now replaces
      if (lane == 0) {
        shrink[query] = before == -INFINITY ? 0.0f : expf(before - now);
        sum[query] = sum[query] * shrink[query] + more;
        largest[query] = now;
      }
    }
    __syncthreads();
#pragma unroll
    for (int query = 0; query < kMostQueries; ++query) {
      if (query >= queries) break;
#pragma unroll
      for (int part = 0; part < kMostDim / kThreads; ++part) {
        const int j = static_cast<int>(threadIdx.x) + part * kThreads;
        if (j >= dim) break;
        float value = values[query][part] * shrink[query];
        for (int slot = 0; slot < kPage; ++slot)
          value = fmaf(scores[query * kPage + slot], kv[slot * stride + j], value);
        values[query][part] = value;
      }
    }
  }
  __syncthreads();
#pragma unroll
  for (int query = 0; query < kMostQueries; ++query) {
    if (query >= queries) break;
    float* state = partial_state(call, tile.slot, query_head(query), query / group, dim);
#pragma unroll
    for (int part = 0; part < kMostDim / kThreads; ++part) {
      const int j = static_cast<int>(threadIdx.x) + part * kThreads;
      if (j >= dim) break;
      if (tile.splits > 1)
        state[j] = values[query][part];
      else
        call.out[(query_row(query) * call.q_heads + query_head(query)) * dim + j] = values[query][part] / sum[query];
    }
    if (tile.splits > 1 && threadIdx.x == 0) {
      state[dim] = largest[query];
      state[dim + 1] = sum[query];
    }
  }
  if (tile.splits == 1) return;
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) last = arrive(call, tile, kv_head, layer.kv_heads) == tile.splits - 1;
  __syncthreads();
  if (last) join_group(call, tile, kv_head, layer.kv_heads, dim);
}

template <typename T>
void attend_typed(cudaStream_t stream, const KvLayer& layer, const AttendCall& call) {
  const size_t shared = sizeof(float) * static_cast<size_t>(kMostQueries * layer.head_dim +
                                                            kPage * (layer.head_dim + 1) + kMostQueries * (kPage + 3));
  static bool raised = false;
  if (!raised) {
    cudaFuncSetAttribute(attend_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, 96 << 10);
    raised = true;
  }
  const dim3 grid(static_cast<unsigned>(call.most_tiles), static_cast<unsigned>(layer.kv_heads));
  launch(attend_kernel<T>, grid, kThreads, shared, stream, layer, call);
}

template <typename T>
void append_typed(cudaStream_t stream, const KvLayer& layer, const float* k, const float* v, const int32_t* slots,
                  int rows) {
  const int units = 2 * rows * layer.kv_heads;
  launch(append_kernel<T>, dim3(static_cast<unsigned>((units + 3) / 4)), kThreads, 0, stream, layer, k, v, slots, rows);
}

// A block a copy and head; the copies of a step are made in order, so one block makes them all.
template <typename T>
__global__ void copy_slots_kernel(KvLayer layer, const DeviceSlotCopy* copies, int count) {
  wait_for_inputs();
  const int head = static_cast<int>(blockIdx.x);
  for (int c = 0; c < count; ++c) {
    const auto at = [&](int slot) {
      return (static_cast<int64_t>(slot / kPage) * layer.kv_heads + head) * kPage + slot % kPage;
    };
    const int64_t from = at(copies[c].from);
    const int64_t to = at(copies[c].to);
    T* keys = static_cast<T*>(layer.keys);
    T* values = static_cast<T*>(layer.values);
    for (int i = threadIdx.x; i < layer.head_dim; i += blockDim.x) {
      keys[to * layer.head_dim + i] = keys[from * layer.head_dim + i];
      values[to * layer.head_dim + i] = values[from * layer.head_dim + i];
    }
    if (layer.key_scales != nullptr && threadIdx.x == 0) {
      layer.key_scales[to] = layer.key_scales[from];
      layer.value_scales[to] = layer.value_scales[from];
    }
    __syncthreads();
  }
}

// Calls f with a value of the cache's type.
template <typename F>
void with_type(KvType type, F f) {
  switch (type) {
    case KvType::kF32:
      return f(float{});
    case KvType::kF16:
      return f(__half{});
    case KvType::kBF16:
      return f(__nv_bfloat16{});
    case KvType::kInt8:
      return f(int8_t{});
    case KvType::kF8:
      return f(__nv_fp8_e4m3{});
  }
}

}  // namespace

void append_kv(cudaStream_t stream, const KvLayer& layer, const float* k, const float* v, const int32_t* slots,
               int rows) {
  with_type(layer.type, [&](auto value) { append_typed<decltype(value)>(stream, layer, k, v, slots, rows); });
}

void prepare_heads(cudaStream_t stream, const KvLayer& layer, const FreshHeads& heads, int rows, float* q_out) {
  const int units = rows * (heads.q.heads + 2 * layer.kv_heads);
  const dim3 grid(static_cast<unsigned>((units + kThreads / 32 - 1) / (kThreads / 32)));
  with_type(layer.type, [&](auto value) {
    launch(prepare_heads_kernel<decltype(value)>, grid, kThreads, 0, stream, layer, heads, rows, q_out);
  });
}

void attend(cudaStream_t stream, const KvLayer& layer, const AttendCall& call) {
  if (attends_on_tensor_cores(layer))
    attend_mma(stream, layer, call);
  else
    with_type(layer.type, [&](auto value) { attend_typed<decltype(value)>(stream, layer, call); });
}

void copy_kv_slots(cudaStream_t stream, const KvLayer& layer, const DeviceSlotCopy* copies, int count) {
  const dim3 grid(static_cast<unsigned>(layer.kv_heads));
  with_type(layer.type, [&](auto value) {
    launch(copy_slots_kernel<decltype(value)>, grid, kThreads, 0, stream, layer, copies, count);
  });
}

}  // namespace edgewise::cuda
