#include "backends/cuda/bench_support.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace edgewise::cuda {
namespace {

__global__ void fill_kernel(uint32_t* data, int64_t count, uint32_t set, uint32_t random) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    uint32_t x = static_cast<uint32_t>(i) * 2654435761u + 12345u;
    x ^= x >> 15;
    x *= 2246822519u;
    x ^= x >> 13;
    data[i] = (x & random) | set;
  }
}

__global__ void clock_kernel(float* gigahertz) {
  constexpr uint64_t kNanoseconds = 100000;
  uint64_t start, now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(start));
  const int64_t ticks = clock64();
  do {
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  } while (now - start < kNanoseconds);
  *gigahertz = static_cast<float>(clock64() - ticks) / static_cast<float>(now - start);
}

}  // namespace

void check(cudaError_t result) {
  if (result == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(result));
  std::exit(1);
}

void fill_words(void* memory, size_t bytes, uint32_t set, uint32_t random) {
  fill_kernel<<<4096, 256>>>(static_cast<uint32_t*>(memory), static_cast<int64_t>(bytes / 4), set, random);
  check(cudaGetLastError());
}

double time_launches(cudaStream_t stream, int launches, const std::function<void(int)>& launch_one) {
  cudaGraph_t graph;
  cudaGraphExec_t ready;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < launches; ++i) launch_one(i);
  check(cudaStreamEndCapture(stream, &graph));
  check(cudaGraphInstantiate(&ready, graph, 0));
  cudaEvent_t start, stop;
  check(cudaEventCreate(&start));
  check(cudaEventCreate(&stop));
  std::vector<double> times;
  for (int i = 0; i < 7; ++i) {
    check(cudaEventRecord(start, stream));
    check(cudaGraphLaunch(ready, stream));
    check(cudaEventRecord(stop, stream));
    check(cudaStreamSynchronize(stream));
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, start, stop));
    if (i > 1) times.push_back(milliseconds * 1e3 / launches);
  }
  std::nth_element(times.begin(), times.begin() + 2, times.end());
  cudaGraphExecDestroy(ready);
  cudaGraphDestroy(graph);
  return times[2];
}

double clock_rate(cudaStream_t stream) {
  float* memory = nullptr;
  float result = 0;
  check(cudaMalloc(reinterpret_cast<void**>(&memory), sizeof(float)));
  clock_kernel<<<1, 1, 0, stream>>>(memory);
  check(cudaMemcpyAsync(&result, memory, sizeof(result), cudaMemcpyDeviceToHost, stream));
  check(cudaStreamSynchronize(stream));
  check(cudaFree(memory));
  return result;
}

}  // namespace edgewise::cuda
