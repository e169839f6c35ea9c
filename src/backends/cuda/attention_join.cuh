// What ends a tile of attention, whichever kernel computed it.
#pragma once

#include "backends/cuda/attention_kernels.h"
#include "backends/cuda/device_code.cuh"

namespace edgewise::cuda {

// Where the state of a tile's query lies: [head_dim] values, the largest score, the sum.
__device__ inline float* partial_state(const AttendCall& call, int slot, int head, int row, int dim) {
  return call.partial + ((static_cast<int64_t>(slot) * call.q_heads + head) * call.tile_rows + row) * (dim + 2);
}

// Called by all threads of a block once its states are written. The last block of a group joins the states of all, in
// the order of the history; a warp a query.
__device__ inline void join_group(const AttendCall& call, const AttendTile& tile, int kv_head, int kv_heads, int dim) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    int32_t* arrived = call.arrived + tile.first_slot * kv_heads + kv_head;
    last = atomicAdd(arrived, 1) == tile.splits - 1;
    if (last) *arrived = 0;
  }
  __syncthreads();
  if (!last) return;
  __threadfence();
  const int group = call.q_heads / kv_heads;
  const int lane = threadIdx.x % 32;
  for (int query = threadIdx.x / 32; query < tile.rows * group; query += blockDim.x / 32) {
    const int row = query / group;
    const int head = kv_head * group + query % group;
    // Lane i looks at split i; there are 32 at most.
    const bool mine = lane < tile.splits;
    const float* state = partial_state(call, tile.first_slot + (mine ? lane : 0), head, row, dim);
    const float my_largest = mine ? __ldcg(state + dim) : -INFINITY;
    const float factor = expf(my_largest - combine_warp(my_largest, Largest()));
    const float sum = combine_warp(mine ? __ldcg(state + dim + 1) * factor : 0.0f, Sum());
    float* out = call.out + (static_cast<int64_t>(tile.first_row + row) * call.q_heads + head) * dim;
    float values[8] = {};  // of columns lane, lane + 32, ...
#pragma unroll 4
    for (int i = 0; i < tile.splits; ++i) {
      const float* other = partial_state(call, tile.first_slot + i, head, row, dim);
      const float share = __shfl_sync(~0u, factor, i);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        if (lane + 32 * j < dim) values[j] = fmaf(__ldcg(other + lane + 32 * j), share, values[j]);
      }
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      if (lane + 32 * j < dim) out[lane + 32 * j] = values[j] / sum;
    }
  }
}

}  // namespace edgewise::cuda
