// What goes into a step and what comes out of it, without the host's help: both ends lie in pinned memory that kernels
// reach by themselves.
#include "backends/cuda/device_code.cuh"
#include "backends/cuda/kernels.h"
#include "backends/draw_weight.h"

namespace edgewise::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kFetchBlocks = 8;  // of a range
constexpr int kLogitsEach = 8;   // of a thread
constexpr int kLogits = kThreads * kLogitsEach;

// Blocks share out the ranges, since each look at the host takes as long as a small kernel.
__global__ void fetch_kernel(const uint4* host, const FetchRange* ranges, uint4* device) {
  wait_for_inputs();
  const FetchRange range = ranges[blockIdx.y];
  for (unsigned i = range.begin + blockIdx.x * kThreads + threadIdx.x; i < range.end; i += kFetchBlocks * kThreads)
    device[i] = host[i];
}

// Larger for larger logits, and for the first one of equals; 0 for what is no number.
__device__ unsigned long long logit_key(float logit, unsigned index) {
  if (isnan(logit)) return 0;
  const unsigned bits = __float_as_uint(logit + 0.0f);  // -0 equals 0
  const unsigned ordered = bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(ordered) << 32 | ~index;
}

__device__ float logit_of(unsigned long long key) {
  const auto ordered = static_cast<unsigned>(key >> 32);
  return key == 0 ? NAN : __uint_as_float(ordered >> 31 != 0 ? ordered & 0x7fffffffu : ~ordered);
}

// Those that the block looks at.
__device__ void change_logits(float* logits, const LogitChange* changes, int count) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    const LogitChange change = changes[i];
    if (static_cast<unsigned>(change.index) / kLogits == blockIdx.x)
      logits[change.index] = changed_logit(logits[change.index], change);
  }
}

// The block that comes last in a row leaves its token, and zeros for the next step.
__global__ void best_kernel(float* logits, unsigned columns, const DrawRow* draws, const LogitChange* changes,
                            const uint64_t* masks, RowChoice* choices, volatile int32_t* tokens) {
  wait_for_inputs();
  const unsigned row = blockIdx.y;
  const DrawRow& draw = draws[row];
  if (draw.later) return;
  const bool drawn = draw.inverse != 0;
  const auto words = static_cast<unsigned>(draw.words);
  masks += draw.first_word;
  logits += static_cast<size_t>(row) * columns;
  if (draw.change_count > 0) {
    change_logits(logits, changes + draw.first_change, draw.change_count);
    __syncthreads();
  }
  const unsigned first = blockIdx.x * kLogits + threadIdx.x;
  unsigned long long key = 0;
#pragma unroll
  for (int j = 0; j < kLogitsEach; ++j) {
    const unsigned i = first + static_cast<unsigned>(j) * kThreads;
    if (i >= columns) continue;
    float logit = logits[i];
    if (i / 64 < words && (masks[i / 64] >> i % 64 & 1) == 0) logits[i] = logit = -INFINITY;
    key = max(key, logit_key(logit, i));
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) key = max(key, __shfl_xor_sync(~0u, key, offset));
  __shared__ unsigned long long of_warps[kThreads / 32];
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = key;
  __syncthreads();
  if (threadIdx.x != 0) return;
#pragma unroll
  for (int i = 1; i < kThreads / 32; ++i) key = max(key, of_warps[i]);
  RowChoice& choice = choices[row];
  atomicMax(&choice.key, key);
  __threadfence();
  if (atomicInc(&choice.arrived, gridDim.x - 1) != gridDim.x - 1) return;
  key = atomicExch(&choice.key, 0ull);
  const int32_t index = key == 0 ? 0 : static_cast<int32_t>(~static_cast<unsigned>(key));
  if (drawn) {
    choice.index = index;
    choice.logit = logit_of(key);
  } else {
    tokens[row] = index;
  }
}

}  // namespace

void fetch(cudaStream_t stream, const void* host, const FetchRange* ranges, int count, void* device) {
  launch(fetch_kernel, dim3(kFetchBlocks, static_cast<unsigned>(count)), kThreads, 0, stream,
         static_cast<const uint4*>(host), ranges, static_cast<uint4*>(device));
}

void best_rows(cudaStream_t stream, float* logits, int rows, int columns, const DrawRow* draws,
               const LogitChange* changes, const uint64_t* masks, RowChoice* choices, int32_t* tokens) {
  const auto blocks = static_cast<unsigned>((columns + kLogits - 1) / kLogits);
  launch(best_kernel, dim3(blocks, static_cast<unsigned>(rows)), kThreads, 0, stream, logits,
         static_cast<unsigned>(columns), draws, changes, masks, choices, tokens);
}

}  // namespace edgewise::cuda
