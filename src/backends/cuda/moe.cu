// Mixtures of experts: which token goes where, and the sum of what comes back.
#include "backends/cuda/device_code.cuh"
#include "backends/cuda/kernels.h"

namespace edgewise::cuda {
namespace {

// One block; a thread counts for an expert at a time. Experts that nobody chose are left out.
__global__ void list_kernel(const float* routing, int rows, int experts, ExpertLists lists) {
  wait_for_inputs();
  extern __shared__ int32_t counts[];  // [experts], then where each begins
  for (int e = threadIdx.x; e < experts; e += blockDim.x) {
    int count = 0;
    for (int row = 0; row < rows; ++row) count += routing[static_cast<int64_t>(row) * experts + e] != 0 ? 1 : 0;
    counts[e] = count;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    int chosen = 0;
    int begin = 0;
    for (int e = 0; e < experts; ++e) {
      const int count = counts[e];
      counts[e] = begin;
      if (count == 0) continue;
      lists.experts[chosen] = e;
      lists.begin[chosen++] = begin;
      begin += count;
    }
    lists.begin[chosen] = begin;
    *lists.count = chosen;
  }
  __syncthreads();
  for (int e = threadIdx.x; e < experts; e += blockDim.x) {
    int at = counts[e];
    for (int row = 0; row < rows; ++row) {
      const int64_t place = static_cast<int64_t>(row) * experts + e;
      if (routing[place] == 0) continue;
      lists.pair_of[place] = at;
      lists.tokens[at++] = row;
    }
  }
}

__global__ void combine_kernel(const float* pairs, const float* routing, const int32_t* pair_of, int experts,
                               int columns, float* out) {
  wait_for_inputs();
  const int64_t row = blockIdx.x;
  for (int i = threadIdx.x; i < columns; i += blockDim.x) {
    float sum = 0;
    for (int e = 0; e < experts; ++e) {
      const float weight = routing[row * experts + e];
      if (weight != 0) sum = fmaf(weight, pairs[static_cast<int64_t>(pair_of[row * experts + e]) * columns + i], sum);
    }
    out[row * columns + i] = sum;
  }
}

}  // namespace

void list_experts(cudaStream_t stream, const float* routing, int rows, int experts, const ExpertLists& lists) {
  launch(list_kernel, dim3(1), 256, static_cast<size_t>(experts) * sizeof(int32_t), stream, routing, rows, experts,
         lists);
}

void combine_experts(cudaStream_t stream, const float* pairs, const float* routing, const int32_t* pair_of, int rows,
                     int experts, int columns, float* out) {
  launch(combine_kernel, dim3(static_cast<unsigned>(rows)), 256, 0, stream, pairs, routing, pair_of, experts, columns,
         out);
}

}  // namespace edgewise::cuda
