// What benchmarks of kernels share: memory with something in it, times, and the clock that they were taken at.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>

namespace edgewise::cuda {

// Ends the program where a call failed.
void check(cudaError_t result);

// Fills memory with words of which `set` bits are one and `random` ones differ.
void fill_words(void* memory, size_t bytes, uint32_t set, uint32_t random);

// Median microseconds of one launch, in a graph of `launches`.
double time_launches(cudaStream_t stream, int launches, const std::function<void(int)>& launch_one);

// Of the multiprocessors, in GHz, now.
double clock_rate(cudaStream_t stream);

}  // namespace edgewise::cuda
