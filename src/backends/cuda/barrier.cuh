// Barriers in shared memory that count bytes on their way (PTX ISA, "mbarrier"), of compute capability 9.0 and newer.
#pragma once

#include <cstdint>

namespace edgewise::cuda {

__device__ inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// A place in a ring of stages, and which turn it is.
struct RingPlace {
  int slot = 0;
  uint32_t parity = 0;

  __device__ void advance(int depth) {
    if (++slot < depth) return;
    slot = 0;
    parity ^= 1;
  }
};

// Until what was expected of a barrier in shared memory has come.
__device__ inline void wait_for(uint32_t barrier, uint32_t parity) {
  uint32_t done = 0;
  while (done == 0) {
    asm volatile("{\n .reg .pred p;\n mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n selp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(barrier), "r"(parity)
                 : "memory");
  }
}

}  // namespace edgewise::cuda
