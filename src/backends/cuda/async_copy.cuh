// Copies from memory to shared memory that nobody waits for until their group is wanted (PTX ISA, "cp.async").
#pragma once

#include <cstdint>

namespace edgewise::cuda {

// 16 bytes.
__device__ inline void copy_word(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
// 8 bytes.
__device__ inline void copy_half_word(uint32_t to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(to), "l"(from) : "memory");
}
// 4 bytes.
__device__ inline void copy_quarter_word(uint32_t to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}
__device__ inline void end_stage() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most so many stages are still on their way.
template <int kPending>
__device__ inline void wait_stages() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace edgewise::cuda
