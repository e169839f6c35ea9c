// The end of attention within the kernel of a step, where several blocks share a history.
#pragma once

#include "backends/cuda/attention_tile.cuh"
#include "backends/cuda/step_here.cuh"
#include "backends/cuda/step_packets.cuh"

namespace edgewise::cuda {

__device__ inline uint64_t* partial_place(const StepOp& op, int slot, int row, int head) {
  return op.partial +
         ((static_cast<int64_t>(slot) * kMostDecodeTokens + row) * op.q_heads + head) * (op.layer.head_dim + 2);
}

// The parts of a query whose history several blocks share out, as one; a warp has 16 columns. Lane i looks at what
// split i adds up to, and four lanes at a time at the columns of one split.
__device__ inline void join_splits(const StepOp& op, const SplitGroup& group, int row, int head, uint32_t number) {
  constexpr int kAtOnce = 8;  // splits
  const int dim = op.layer.head_dim;
  const int thread = this_thread();
  const int lane = thread % 32;
  const int first_column = thread / 32 * 16;
  const int column = first_column + lane % 4 * 4;
  if (first_column >= dim) return;
  const uint64_t* from = partial_place(op, group.first_slot, row, head);
  const int64_t of_split = partial_place(op, 1, 0, 0) - op.partial;
  float factor = 0;  // of split `lane`
  float all = 0;
  float4 values = {};
#pragma unroll 1
  for (int first = 0; first < group.splits; first += kAtOnce) {
    const int split = first + lane / 4;
    const bool looks = first == 0 && lane < group.splits;
    const bool has = split < group.splits && column < dim;
    Received<2> rest = {};
    Quad quad = {};
    Patience patience;
    bool complete = false;
    while (!complete) {
      if (looks) rest.look(from + lane * of_split + dim, 2);
      if (has) quad.look(from + split * of_split + column, 2);
      complete = (!looks || rest.complete(number)) && (!has || quad.complete(number));
      patience.again();
    }
    __syncwarp();
    if (first == 0) {
      const float largest = looks ? rest.value(0) : -INFINITY;
      const float most = combine_warp(largest, Largest());
      factor = most == -INFINITY ? 0.0f : exp_of(largest - most);
      all = combine_warp(looks ? rest.value(1) * factor : 0.0f, Sum());
    }
    const float share = __shfl_sync(~0u, factor, split % 32);
    if (!has) continue;
    values.x = fmaf(quad.value(0), share, values.x);
    values.y = fmaf(quad.value(1), share, values.y);
    values.z = fmaf(quad.value(2), share, values.z);
    values.w = fmaf(quad.value(3), share, values.w);
  }
#pragma unroll
  for (int offset = 4; offset < 32; offset *= 2) {
    values.x += __shfl_xor_sync(~0u, values.x, offset);
    values.y += __shfl_xor_sync(~0u, values.y, offset);
    values.z += __shfl_xor_sync(~0u, values.z, offset);
    values.w += __shfl_xor_sync(~0u, values.w, offset);
  }
  const int mine = lane / 4;  // of the four, to be sent
  const float value = mine == 0 ? values.x : mine == 1 ? values.y : mine == 2 ? values.z : values.w;
  if (mine < 4 && column < dim)
    send(place_in(op.out, 0, group.first_row + row, head * dim) + column + mine, value / all, number);
}

}  // namespace edgewise::cuda
