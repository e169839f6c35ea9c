// What kernels share: sums over a block, conversions, launches that may begin before the one ahead has ended.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace edgewise::cuda {

// Programmatic dependent launch (CUDA C++ Programming Guide): a kernel may start while the one before it still runs,
// and waits here for what that one wrote. Before it, only weights may be read, and nothing be written. The one behind
// starts at once and waits in its turn: who goes on behind this has all kernels before it behind itself, however early
// they have started, since each of them went through here.
__device__ inline void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ inline void wait_for_inputs() {
  let_next_start();
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Brings a line of weights nearer, for somebody who reads them later.
__device__ inline void prefetch_line(const void* from) { asm volatile("prefetch.global.L2 [%0];" ::"l"(from)); }

template <typename... Parameters, typename... Arguments>
void launch_clusters(void (*kernel)(Parameters...), dim3 grid, dim3 cluster, int threads, size_t shared,
                     cudaStream_t stream, Arguments... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {cluster.x, cluster.y, cluster.z};
  config.attrs = attributes;
  config.numAttrs = cluster.x * cluster.y * cluster.z > 1 ? 2 : 1;
  cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared, cudaStream_t stream,
            Arguments... arguments) {
  launch_clusters(kernel, grid, dim3(1), threads, shared, stream, arguments...);
}

struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Largest {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

template <typename Combine>
__device__ inline float combine_warp(float value, Combine combine) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value = combine(value, __shfl_xor_sync(~0u, value, offset));
  return value;
}

// Over a block of whole warps; all threads get the result.
template <typename Combine>
__device__ inline float combine_block(float value, Combine combine) {
  __shared__ float of_warps[32];
  value = combine_warp(value, combine);
  __syncthreads();  // of_warps may still be read for the sum before
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
  __syncthreads();
  value = of_warps[0];
  for (unsigned i = 1; i < blockDim.x / 32; ++i) value = combine(value, of_warps[i]);
  return value;
}

// Division of small numbers, below 2^20, by one that is known: fewer instructions than the real one.
class Divisor {
 public:
  __device__ explicit Divisor(int by) : by_(by) { inverse_ = __fdividef(1.0f, static_cast<float>(by)); }
  __device__ int quotient(int x) const { return static_cast<int>((static_cast<float>(x) + 0.5f) * inverse_); }
  __device__ int rest(int x) const { return x - quotient(x) * by_; }

 private:
  int by_;
  float inverse_;
};

// Threads of a block that takes the root mean square of a row: the order of its sum depends on them.
constexpr int norm_threads(int columns) { return columns <= 256 ? 64 : columns <= 1024 ? 256 : 1024; }
// The factor of RMSNorm; all threads get it.
__device__ inline float inverse_norm(const float* x, int columns, float epsilon) {
  float squares = 0;
  for (int i = threadIdx.x; i < columns; i += blockDim.x) squares = fmaf(x[i], x[i], squares);
  return rsqrtf(combine_block(squares, Sum()) / static_cast<float>(columns) + epsilon);
}

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float to_float(int8_t x) { return static_cast<float>(x); }
__device__ inline float to_float(__nv_fp8_e4m3 x) { return static_cast<float>(x); }

__device__ inline float silu(float x) { return x / (1.0f + expf(-x)); }
__device__ inline float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }
__device__ inline float gelu_tanh(float x) {
  return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
}

}  // namespace edgewise::cuda
