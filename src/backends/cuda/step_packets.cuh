// Packets (step_kernel.h): a value and its number travel in one word, so that who sees the number has the value.
#pragma once

#include "backends/cuda/device_code.cuh"
#include "backends/cuda/step_kernel.h"

namespace edgewise::cuda {

// The thread's number, as if it could change: what follows from it is else computed ahead of all operators and kept in
// registers that are wanted.
__device__ inline int this_thread() {
  int thread = static_cast<int>(threadIdx.x);
  asm volatile("" : "+r"(thread));
  return thread;
}

// Until all warps but the feeding one are there.
__device__ inline void sync_block() { asm volatile("bar.sync 1, %0;" ::"n"(kStepThreads) : "memory"); }

// Looks at a word that nobody writes, before a step is given up: seconds, where a packet takes microseconds.
inline constexpr unsigned kMostLooks = 1u << 23;

__device__ inline void send(uint64_t* to, float value, uint32_t number) {
  const uint64_t word = static_cast<uint64_t>(number) << 32 | __float_as_uint(value);
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(word) : "memory");
}

// Pairs of neighbours, so many columns from one to the next.
template <int kCount>
struct Received {
  uint64_t words[kCount];

  __device__ void look(const uint64_t* from, int apart) {
#pragma unroll
    for (int i = 0; i < kCount; i += 2)
      asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
                   : "=l"(words[i]), "=l"(words[i + 1])
                   : "l"(from + i / 2 * apart)
                   : "memory");
  }
  __device__ bool complete(uint32_t number) const {
    uint32_t differs = 0;
#pragma unroll
    for (int i = 0; i < kCount; ++i) differs |= static_cast<uint32_t>(words[i] >> 32) ^ number;
    return differs == 0;
  }
  __device__ float value(int i) const { return __uint_as_float(static_cast<uint32_t>(words[i])); }
};
using Quad = Received<4>;

__device__ inline void add_to(float4& sum, const Quad& quad) {
  sum.x += quad.value(0);
  sum.y += quad.value(1);
  sum.z += quad.value(2);
  sum.w += quad.value(3);
}

// Where the column of a token stands in a slot.
__device__ inline uint64_t* place_in(const Packets& packets, int slot, int token, int column) {
  return packets.words + static_cast<int64_t>(slot * kMostDecodeTokens + token) * packets.columns + column;
}
// How many slots have a part of a column. `counts`: of all packets.
__device__ inline int slots_of(const Packets& packets, const uint8_t* counts, int column) {
  return packets.counts_at < 0 ? 1 : counts[packets.counts_at + column / static_cast<int>(kBlockRows)];
}

class Patience {
 public:
  __device__ void again() {
    if (++looks_ > kMostLooks) __trap();
  }

 private:
  unsigned looks_ = 0;
};

// Four columns each of kWidth places, two and two kApart from each other, summed over their first `slots`, in order; 0:
// nothing is wanted. kSlots of all places travel together.
template <int kWidth, int kSlots, int kApart>
__device__ inline void receive(const Packets& packets, int token, const int (&column)[kWidth],
                               const int (&slots)[kWidth], uint32_t number, float4 (&sum)[kWidth]) {
  int most = 0;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) most = max(most, slots[i]);
#pragma unroll 1
  for (int slot = 0; slot < most; slot += kSlots) {
    // Zeros end what was there before: registers that are only filled under a condition would be taken for the whole
    // step.
    Quad quads[kWidth][kSlots] = {};
    Patience patience;
    bool complete = false;
    while (!complete) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
#pragma unroll
        for (int j = 0; j < kSlots; ++j) {
          if (slot + j < slots[i]) quads[i][j].look(place_in(packets, slot + j, token, column[i]), kApart);
        }
      }
      complete = true;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
#pragma unroll
        for (int j = 0; j < kSlots; ++j) complete = complete && (slot + j >= slots[i] || quads[i][j].complete(number));
      }
      patience.again();
    }
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
#pragma unroll
      for (int j = 0; j < kSlots; ++j) {
        if (slot + j < slots[i]) add_to(sum[i], quads[i][j]);
      }
    }
  }
}

}  // namespace edgewise::cuda
