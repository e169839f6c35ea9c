// What no kernel of ours does.
#include "bad_address.h"

namespace edgewise {
namespace {

__global__ void write_kernel(int* address) { *address = 1; }

}  // namespace

cudaError_t write_to_bad_address() {
  write_kernel<<<1, 1>>>(reinterpret_cast<int*>(8));
  return cudaDeviceSynchronize();
}

}  // namespace edgewise
