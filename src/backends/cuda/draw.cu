// Tokens drawn from logits on the GPU: the ones that Draw (backends/draw.h) draws on the host, since weights are whole
// numbers whose sums are the same in any order, and a rule says which token a place in them means. Compiled without
// fused multiplications, as the host's part is.
//
// One kernel leaves weights where the logits were, and of each row how many, and how much weight, lie above each of a
// few edges. In the other one a block a row picks its token (draw_pick.cuh).
#include <algorithm>
#include <cstddef>

#include "backends/cuda/draw_pick.cuh"

namespace edgewise::cuda {
namespace {

constexpr unsigned kWeighThreads = 256;
constexpr int kWeighBlocks = 4;  // on a multiprocessor

// Puts weights where the logits were; the block's warps take chunks in turns.
__global__ void __launch_bounds__(kWeighThreads, kWeighBlocks)
    weigh_kernel(float* logits, unsigned columns, const DrawRow* draws, const RowChoice* choices, std::byte* scratch,
                 size_t stride) {
  wait_for_inputs();
  const unsigned row = blockIdx.y;
  const DrawRow rule = draws[row];
  if (rule.inverse == 0 || rule.later) return;
  const float largest = choices[row].logit;
  logits += static_cast<size_t>(row) * columns;
  RowSums& sums = *reinterpret_cast<RowSums*>(scratch + row * stride);
  auto* const chunks = reinterpret_cast<ChunkSum*>(&sums + 1);
  const bool some = rule.most > 0 || rule.top_p < 1;
  const unsigned warp = threadIdx.x / 32;
  const unsigned lane = threadIdx.x % 32;
  constexpr unsigned kWarps = kWeighThreads / 32;
  __shared__ Above of_block[kEdges];
  if (threadIdx.x < kEdges) of_block[threadIdx.x] = {};
  __syncthreads();
  Above above[kEdges] = {};
  for (unsigned number = blockIdx.x * kWarps + warp; number * kChunk < columns; number += gridDim.x * kWarps) {
    Chunk chunk(logits, number, columns);
    Above all = {};
    float most = 0;
#pragma unroll
    for (unsigned j = 0; j < kEach; ++j) {
      const float power = (chunk.values[j] - largest) * rule.inverse;
      const float weight = where(power >= rule.floor, draw_weight(power));
      if (chunk.place(j) < columns) logits[chunk.place(j)] = weight;
      const unsigned long long mass = whole(weight);
      add(all, weight, mass, 1.0f);
      most = fmaxf(most, weight);
      if (!some || !__any_sync(~0u, weight >= edge(kEdges - 1))) continue;
#pragma unroll
      for (int i = 0; i < kEdges - 1; ++i) add(above[i], weight, mass, edge(i + 1));
    }
    above[kEdges - 1].mass += all.mass;
    above[kEdges - 1].count += all.count;
    const unsigned long long mass = sum_of_warp(all).mass;
    const float largest_weight = __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(most)));
    if (lane == 0) chunks[number] = {mass, largest_weight};
  }
#pragma unroll
  for (int i = 0; i < kEdges; ++i) {
    const Above sum = sum_of_warp(above[i]);
    if (lane != 0 || sum.count == 0) continue;
    atomicAdd(&of_block[i].mass, sum.mass);
    atomicAdd(&of_block[i].count, sum.count);
  }
  __syncthreads();
  if (threadIdx.x >= kEdges || of_block[threadIdx.x].count == 0) return;
  atomicAdd(&sums.above[threadIdx.x].mass, of_block[threadIdx.x].mass);
  atomicAdd(&sums.above[threadIdx.x].count, of_block[threadIdx.x].count);
}

__global__ void __launch_bounds__(kPickThreads)
    pick_kernel(const float* weights, unsigned columns, const DrawRow* draws, const RowChoice* choices,
                std::byte* scratch, size_t stride, volatile int32_t* tokens) {
  wait_for_inputs();
  const unsigned row = blockIdx.x;
  const DrawRow rule = draws[row];
  if (rule.inverse == 0 || rule.later) return;
  __shared__ PickMemory shared;
  RowSums& sums = *reinterpret_cast<RowSums*>(scratch + row * stride);
  RowPick pick(weights + static_cast<size_t>(row) * columns, columns, sums, shared);
  int token = choices[row].index;
  if (pick.all().mass > 0)
    token = rule.most > 0 || rule.top_p < 1 ? pick.draw_of_some(rule) : pick.draw_of_all(rule.uniform);
  if (threadIdx.x == 0) tokens[row] = token;
  __syncthreads();
  if (threadIdx.x < kEdges) sums.above[threadIdx.x] = {};
}

}  // namespace

size_t draw_bytes(int columns) {
  return sizeof(RowSums) + (static_cast<size_t>(columns) + kChunk - 1) / kChunk * sizeof(ChunkSum);
}

void draw_rows(cudaStream_t stream, float* logits, int rows, int columns, int multiprocessors, const DrawRow* draws,
               const RowChoice* choices, void* scratch, int32_t* tokens) {
  constexpr int kLeast = static_cast<int>(kWeighThreads * kEach);
  const int blocks = std::min((columns + kLeast - 1) / kLeast, std::max(kWeighBlocks * multiprocessors / rows, 1));
  auto* const bytes = static_cast<std::byte*>(scratch);
  launch(weigh_kernel, dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(rows)), kWeighThreads, 0, stream,
         logits, static_cast<unsigned>(columns), draws, choices, bytes, draw_bytes(columns));
  launch(pick_kernel, dim3(static_cast<unsigned>(rows)), kPickThreads, 0, stream, logits,
         static_cast<unsigned>(columns), draws, choices, bytes, draw_bytes(columns), tokens);
}

}  // namespace edgewise::cuda
