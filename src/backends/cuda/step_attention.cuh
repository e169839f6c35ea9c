// Attention within the kernel of a step: a block takes a tile and key head from packets to packets, and makes the cache
// grow on its way.
#pragma once

#include "backends/cuda/attention_tile.cuh"
#include "backends/cuda/step_packets.cuh"

namespace edgewise::cuda {

inline constexpr int kHeadBlocks = kMostStepHeadDim / 64;  // of 64 columns; smaller heads leave the rest empty

// A head as packets, by a warp.
__device__ inline void receive_head(const Packets& packets, int token, int column, int dim, uint32_t number, float* to) {
  const int at = static_cast<int>(threadIdx.x % 32) * 4;
  if (at < dim) {
    const int columns[1] = {column + at};
    uint32_t used[1] = {packets.used != nullptr ? __ldg(packets.used + columns[0] / kBlockRows) : 1u};
    float4 sum[1] = {};
    receive<1>(packets, token, columns, used, number, sum);
    *reinterpret_cast<float4*>(to + at) = sum[0];
  }
  __syncwarp();
}

// A path whose norm and angles, [2][kMostDecodeTokens][half], lie near.
__device__ inline HeadPath near(const HeadPath& path, const float* norm, const float* angles) {
  HeadPath result = path;
  if (path.norm != nullptr) result.norm = norm;
  result.cos = angles;
  result.sin = angles + kMostDecodeTokens * path.half;
  return result;
}

// Brings what does not depend on this step's queries near while those are still on their way.
template <typename T>
__device__ inline void prepare_tile(const StepCall& call, const StepOp& op, const AttendTile& tile, int kv_head,
                                    AttendMemory& memory) {
  const int dim = op.layer.head_dim;
  const int half = op.q_path.half;
  for (int i = threadIdx.x; i < dim; i += kStepThreads) {
    if (op.q_path.norm != nullptr) memory.norms[0][i] = op.q_path.norm[i];
    if (op.k_path.norm != nullptr) memory.norms[1][i] = op.k_path.norm[i];
  }
  float* cos = memory.angles[0];
  for (int i = threadIdx.x; i < call.tokens * half; i += kStepThreads) {
    cos[i] = op.q_path.cos[i];
    cos[kMostDecodeTokens * half + i] = op.q_path.sin[i];
  }
  const int head_bytes = kPageSlots * dim * static_cast<int>(sizeof(T));
  const int lines = (tile.page_end - tile.page_begin) * (head_bytes / 128);
  for (int i = threadIdx.x; i < lines; i += kStepThreads) {
    const int page = page_of(&memory.tile, call.pages, tile.page_begin + i / (head_bytes / 128));
    const int64_t at = (static_cast<int64_t>(page) * op.layer.kv_heads + kv_head) * head_bytes + i % (head_bytes / 128) * 128;
    asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const std::byte*>(op.layer.keys) + at));
    asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const std::byte*>(op.layer.values) + at));
  }
}

// Queries to shared memory; keys and values of rows that this tile's pages take, to the cache. Tiles that share pages
// write the same twice.
template <typename T>
__device__ inline void receive_heads(const StepCall& call, const StepOp& op, const AttendTile& tile, int kv_head,
                                     uint32_t number, AttendMemory& memory) {
  const int dim = op.layer.head_dim;
  const int group = op.q_heads / op.layer.kv_heads;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const HeadPath q_path = near(op.q_path, memory.norms[0], memory.angles[0]);
  const HeadPath k_path = near(op.k_path, memory.norms[1], memory.angles[0]);
  const int first = max(0, tile.page_begin * kPageSlots - tile.kv_length);
  const int end = min(tile.sequence_rows, tile.page_end * kPageSlots - tile.kv_length);
  const int rows = max(end - first, 0);
  const int queries = tile.rows * group;
  float* raw = memory.heads[warp][0];
  for (int unit = warp; unit < queries + 2 * rows; unit += kStepWarps) {
    if (unit < queries) {
      const int row = tile.first_row + unit / group;
      receive_head(op.in, row, op.columns[0] + (kv_head * group + unit % group) * dim, dim, number, raw);
      walk_path(q_path, raw, row, dim, lane, memory.queries[unit]);
    } else {
      const int of_new = unit - queries;
      const bool is_value = of_new >= rows;
      const int row = tile.sequence_row + first + of_new % rows;
      receive_head(op.in, row, op.columns[is_value ? 2 : 1] + kv_head * dim, dim, number, raw);
      float* head = raw;
      if (!is_value) {
        head = memory.heads[warp][1];
        walk_path(k_path, raw, row, dim, lane, head);
        __syncwarp();
      }
      store_head<T>(op.layer, is_value, call.slots[row], kv_head, head, lane);
    }
    __syncwarp();
  }
}

__device__ inline uint64_t* partial_place(const StepOp& op, int slot, int row, int head) {
  return op.partial + ((static_cast<int64_t>(slot) * kMostDecodeTokens + row) * op.q_heads + head) *
                          (op.layer.head_dim + 2);
}

template <typename T>
__device__ __forceinline__ void attend_tile(const StepCall& call, const StepOp& op, int number_of_tile, int kv_head,
                                   uint32_t number, AttendMemory& memory) {
    if (threadIdx.x < sizeof(AttendTile) / 4)
    reinterpret_cast<int32_t*>(&memory.tile)[threadIdx.x] =
        reinterpret_cast<const int32_t*>(call.tiles[op.tiles].tiles + number_of_tile)[threadIdx.x];
  __syncthreads();
  const AttendTile& tile = memory.tile;
  prepare_tile<T>(call, op, tile, kv_head, memory);
  __syncthreads();
  receive_heads<T>(call, op, tile, kv_head, number - 1, memory);
  __syncthreads();
  const int dim = op.layer.head_dim;
  const int group = op.q_heads / op.layer.kv_heads;
  const int queries = tile.rows * group;
  stage_queries<Cache<T>::kBF16, AttendMemory::kSteps>(memory.q[0], memory.q[1], queries, dim, op.scale, [&](int query, int column) {
    return *reinterpret_cast<const float2*>(&memory.queries[query][column]);
  });
  __syncthreads();
  const AttendRule rule{op.softcap, op.window, group, call.positions, call.masks, &tile, call.pages};
  attend_pages<T, kHeadBlocks, kStepWarps>(op.layer, rule, tile, kv_head, memory.q[0], memory.q[1], memory.states);
  __syncthreads();
  for (int query = threadIdx.x / 32; query < queries; query += kStepWarps) {
    const int head = kv_head * group + query % group;
    uint64_t* partial = partial_place(op, tile.slot, query / group, head);
    uint64_t* out = place_in(op.out, 0, tile.first_row + query / group, head * dim);
    float all = 0;
    const auto rest = [&](float most, float sum) {
      all = sum;
      if (tile.splits == 1 || threadIdx.x % 32 != 0) return;
      send(partial + dim, most, number);
      send(partial + dim + 1, sum, number);
    };
    join_warps<kHeadBlocks, kStepWarps>(memory.states, queries, query, dim, rest, [&](int column, float value) {
      if (tile.splits > 1)
        send(partial + column, value, number);
      else
        send(out + column, value / all, number);
    });
  }
  __syncthreads();
}

// The parts of a query whose history several blocks share out, as one. A warp takes splits 8 apart.
__device__ inline void join_splits(const StepOp& op, const AttendTile& tile, int row, int head, uint32_t number,
                                   float* states) {
  const int dim = op.layer.head_dim;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  float most = -INFINITY;
  float sum = 0;
  float4 values = {};
  for (int split = warp; split < tile.splits; split += kStepWarps) {
    const uint64_t* from = partial_place(op, tile.first_slot + split, row, head);
    Received<2> rest;
    Quad quad;
    rest.look(from + dim);
    if (lane * 4 < dim) quad.look(from + lane * 4);
    rest.wait(from + dim, number);
    if (lane * 4 < dim) quad.wait(from + lane * 4, number);
    const float now = fmaxf(most, rest.value(0));
    const float shrink = now == -INFINITY ? 0.0f : expf(most - now);
    const float share = now == -INFINITY ? 0.0f : expf(rest.value(0) - now);
    most = now;
    sum = sum * shrink + rest.value(1) * share;
    if (lane * 4 < dim) {
      values.x = values.x * shrink + quad.value(0) * share;
      values.y = values.y * shrink + quad.value(1) * share;
      values.z = values.z * shrink + quad.value(2) * share;
      values.w = values.w * shrink + quad.value(3) * share;
    }
  }
  float* state = states + warp * (kHeadBlocks * 64 + 2);
  if (lane * 4 < dim) {
    state[lane * 4] = values.x;
    state[lane * 4 + 1] = values.y;
    state[lane * 4 + 2] = values.z;
    state[lane * 4 + 3] = values.w;
  }
  if (lane == 0) {
    state[kHeadBlocks * 64] = most;
    state[kHeadBlocks * 64 + 1] = sum;
  }
  __syncthreads();
  if (warp == 0) {
    uint64_t* out = place_in(op.out, 0, tile.first_row + row, head * dim);
    float all = 0;
    join_warps<kHeadBlocks, kStepWarps>(states, 1, 0, dim, [&](float, float x) { all = x; },
                                    [&](int column, float value) { send(out + column, value / all, number); });
  }
  __syncthreads();
}

template <typename T>
__device__ __forceinline__ void attend_step(const StepCall& call, const StepOp& op, uint32_t number, std::byte* scratch) {
  auto& memory = *reinterpret_cast<AttendMemory*>(scratch);
  const StepTiles& tiles = call.tiles[op.tiles];
  const int count = *tiles.count;
  const int kv_heads = op.layer.kv_heads;
  for (int i = static_cast<int>(blockIdx.x); i < count * kv_heads; i += static_cast<int>(gridDim.x))
    attend_tile<T>(call, op, i / kv_heads, i % kv_heads, number, memory);
  int first = 0;  // block that takes the next query to be joined
  for (int i = 0; i < count; i += tiles.tiles[i].splits) {
    if (tiles.tiles[i].splits == 1) continue;
    const AttendTile tile = tiles.tiles[i];
    const int blocks = static_cast<int>(gridDim.x);
    const int queries = tile.rows * op.q_heads;
    for (int query = (static_cast<int>(blockIdx.x) + blocks - first) % blocks; query < queries; query += blocks)
      join_splits(op, tile, query / op.q_heads, query % op.q_heads, number, memory.states);
    first = (first + queries) % blocks;
  }
}

}  // namespace edgewise::cuda
