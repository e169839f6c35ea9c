// Packets (step_kernel.h): a value and its number travel in one word, so that who sees the number has the value.
#pragma once

#include "backends/cuda/step_kernel.h"

namespace edgewise::cuda {

// Looks at a word that nobody writes, before a step is given up: seconds, where a packet takes microseconds.
inline constexpr unsigned kMostLooks = 1u << 23;

__device__ inline void send(uint64_t* to, float value, uint32_t number) {
  const uint64_t word = static_cast<uint64_t>(number) << 32 | __float_as_uint(value);
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(word) : "memory");
}

// Neighbours, an even number of them.
template <int kCount>
struct Received {
  uint64_t words[kCount];

  __device__ void look(const uint64_t* from) {
#pragma unroll
    for (int i = 0; i < kCount; i += 2)
      asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
                   : "=l"(words[i]), "=l"(words[i + 1])
                   : "l"(from + i)
                   : "memory");
  }
  __device__ bool complete(uint32_t number) const {
    bool all = true;
#pragma unroll
    for (int i = 0; i < kCount; ++i) all = all && static_cast<uint32_t>(words[i] >> 32) == number;
    return all;
  }
  __device__ void wait(const uint64_t* from, uint32_t number) {
    for (unsigned looks = 0; !complete(number); look(from)) {
      if (++looks > kMostLooks) __trap();
    }
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

// Four neighbouring columns each of kWidth places, summed over their slots in order. `used` are the slots' bits, 0 where
// nothing is wanted. Loads of two slots of all places travel together.
template <int kWidth>
__device__ inline void receive(const Packets& packets, int token, const int (&column)[kWidth], uint32_t (&used)[kWidth],
                               uint32_t number, float4 (&sum)[kWidth]) {
  while (true) {
    uint32_t left = 0;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) left |= used[i];
    if (left == 0) return;
    Quad quads[kWidth][2];
    int slots[kWidth][2];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        slots[i][j] = __ffs(static_cast<int>(used[i])) - 1;
        used[i] &= used[i] - 1;
        if (slots[i][j] >= 0) quads[i][j].look(place_in(packets, slots[i][j], token, column[i]));
      }
    }
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        if (slots[i][j] < 0) continue;
        quads[i][j].wait(place_in(packets, slots[i][j], token, column[i]), number);
        add_to(sum[i], quads[i][j]);
      }
    }
  }
}

}  // namespace edgewise::cuda
