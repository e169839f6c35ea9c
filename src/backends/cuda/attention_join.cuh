// What ends a tile of attention, whichever kernel computed it.
#pragma once

#include "backends/cuda/attention_tile.cuh"

namespace edgewise::cuda {

// Where the state of a tile's query lies.
__device__ inline float* partial_state(const AttendCall& call, int slot, int head, int row, int dim) {
  return call.partial +
         ((static_cast<int64_t>(slot) * call.q_heads + head) * call.tile_rows + row) * partial_floats(dim);
}

// A query's parts as one, in the order of the history, by a warp. `from`: the first one's, `apart` from each other.
__device__ inline void join_parts(const float* from, int64_t apart, int splits, int dim, float* out) {
  constexpr int kAtOnce = 16;
  const int lane = threadIdx.x % 32;
  // Lane i looks at part i; there are 32 at most.
  float2 ends = {-INFINITY, 0};
  if (lane < splits) ends = __ldcg(reinterpret_cast<const float2*>(from + lane * apart + dim));
  const float factor = exp_of(ends.x - fmaxf(combine_warp(ends.x, Largest()), -1e30f));
  const float all = combine_warp(ends.y * factor, Sum());
#pragma unroll 1
  for (int column = lane * 4; column - lane * 4 < dim; column += 128) {
    float4 sum = {};
#pragma unroll 1
    for (int first = 0; first < splits; first += kAtOnce) {
      float4 parts[kAtOnce] = {};
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (first + i < splits && column < dim)
          parts[i] = __ldcg(reinterpret_cast<const float4*>(from + (first + i) * apart + column));
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const float share = __shfl_sync(~0u, factor, first + i);
        if (first + i >= splits) continue;
        sum.x = fmaf(parts[i].x, share, sum.x);
        sum.y = fmaf(parts[i].y, share, sum.y);
        sum.z = fmaf(parts[i].z, share, sum.z);
        sum.w = fmaf(parts[i].w, share, sum.w);
      }
    }
    const float values[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (column + i < dim) out[column + i] = values[i] / all;
    }
  }
}

// Says that a part of the tile is in memory: by one thread, behind a barrier of the block that wrote it. How many of
// the group had come before.
__device__ inline int arrive(const AttendCall& call, const AttendTile& tile, int kv_head, int kv_heads) {
  __threadfence();
  return atomicAdd(call.arrived + tile.first_slot * kv_heads + kv_head, 1);
}

// The parts of a group as one: by the block that came last, a warp a query.
__device__ inline void join_group(const AttendCall& call, const AttendTile& tile, int kv_head, int kv_heads, int dim) {
  __threadfence();
  if (threadIdx.x == 0) call.arrived[tile.first_slot * kv_heads + kv_head] = 0;
  const int group = call.q_heads / kv_heads;
  const Divisor by_group(group);
  const int64_t apart = static_cast<int64_t>(call.q_heads) * call.tile_rows * partial_floats(dim);
#pragma unroll 1
  for (int query = static_cast<int>(threadIdx.x) / 32; query < tile.rows * group; query += blockDim.x / 32) {
    const int row = by_group.quotient(query);
    const int head = kv_head * group + by_group.rest(query);
    join_parts(partial_state(call, tile.first_slot, head, row, dim), apart, tile.splits, dim,
               call.out + (static_cast<int64_t>(tile.first_row + row) * call.q_heads + head) * dim);
  }
}

}  // namespace edgewise::cuda
