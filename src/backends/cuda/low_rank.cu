// y += scale * B (A x) on the rows of sequences with an adapter (LoRA, arXiv:2106.09685).
#include "backends/cuda/device_code.cuh"
#include "backends/cuda/kernels.h"

namespace edgewise::cuda {
namespace {

// A warp an element of A x.
__global__ void multiply_a_kernel(const LowRankPart* adapters, const int32_t* row_adapter, const float* x, int k,
                                  int most_rank, float* hidden) {
  wait_for_inputs();
  const int row = static_cast<int>(blockIdx.x);
  const int r = static_cast<int>(blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32);
  if (row_adapter[row] < 0) return;
  const LowRankPart part = adapters[row_adapter[row]];
  if (part.a == nullptr || r >= part.rank) return;
  float sum = 0;
  for (int i = threadIdx.x % 32; i < k; i += 32)
    sum = fmaf(part.a[static_cast<int64_t>(r) * k + i], x[static_cast<int64_t>(row) * k + i], sum);
  sum = combine_warp(sum, Sum());
  if (threadIdx.x % 32 == 0) hidden[row * most_rank + r] = sum * part.scale;
}

// A thread an element of the output.
__global__ void multiply_b_kernel(const LowRankPart* adapters, const int32_t* row_adapter, const float* hidden, int n,
                                  int most_rank, float* out) {
  wait_for_inputs();
  const int row = static_cast<int>(blockIdx.x);
  const int j = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  if (row_adapter[row] < 0 || j >= n) return;
  const LowRankPart part = adapters[row_adapter[row]];
  if (part.a == nullptr) return;
  float sum = 0;
  for (int r = 0; r < part.rank; ++r)
    sum = fmaf(part.b[static_cast<int64_t>(j) * part.rank + r], hidden[row * most_rank + r], sum);
  out[static_cast<int64_t>(row) * n + j] += sum;
}

}  // namespace

void add_low_rank(cudaStream_t stream, const LowRankPart* adapters, const int32_t* row_adapter, const float* x,
                  int rows, int k, int n, int most_rank, float* hidden, float* out) {
  const auto row_count = static_cast<unsigned>(rows);
  launch(multiply_a_kernel, dim3(row_count, static_cast<unsigned>((most_rank + 7) / 8)), 256, 0, stream, adapters,
         row_adapter, x, k, most_rank, hidden);
  launch(multiply_b_kernel, dim3(row_count, static_cast<unsigned>((n + 255) / 256)), 256, 0, stream, adapters,
         row_adapter, hidden, n, most_rank, out);
}

}  // namespace edgewise::cuda
