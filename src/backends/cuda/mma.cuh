// Tensor core products of 16-bit operands with float32 sums, and what makes operands of them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace edgewise::cuda {

// D += A B, 16 x 8 from 16 x 16 and 16 x 8 (PTX ISA, "Matrix fragments for mma.m16n8k16"). Lane (g, t) = (lane / 4,
// lane % 4) holds of A rows g and g + 8 and columns 2t, 2t + 1, 2t + 8, 2t + 9, of B those rows of column g, of D rows
// g and g + 8 of columns 2t and 2t + 1.
template <bool kBF16>
__device__ inline void multiply_tile(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (kBF16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

// The same with integers, 16 x 8 from 16 x 32 and 32 x 8: lane (g, t) holds of A rows g and g + 8 and columns 4t to
// 4t + 3 and those 16 behind them, a byte each, of B those rows of column g.
__device__ inline void multiply_integer_tile(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline uint32_t bits_of(__half2 h) { return *reinterpret_cast<uint32_t*>(&h); }
__device__ inline uint32_t bits_of(__nv_bfloat162 h) { return *reinterpret_cast<uint32_t*>(&h); }
__device__ inline __half2 half2_of(uint32_t bits) { return *reinterpret_cast<__half2*>(&bits); }

// (a & b) | c in one instruction.
__device__ inline uint32_t and_or(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
  return result;
}

// Two neighbours of four e4m3 as halves.
__device__ inline uint32_t halves_of_f8(uint32_t word, bool upper) {
#if __CUDA_ARCH__ >= 890
  uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<uint16_t>(upper ? word >> 16 : word)));
  return halves;
#else
  // Where they stand in the upper bytes of halves, shifted behind the longer exponent, they are a 256th.
  const uint32_t high = __byte_perm(word, 0, upper ? 0x3424 : 0x1404);
  return bits_of(__hmul2(half2_of(and_or(high, 0x80008000u, (high & 0x7f007f00u) >> 1)), __float2half2_rn(256.0f)));
#endif
}

// Two neighbours of float32 as pairs of 16-bit numbers, high + low / kLowFactor: 16 bits of mantissa for bf16 and 22
// for f16, whose low part is scaled up so that small values lose nothing.
template <bool kBF16>
inline constexpr float kLowFactor = kBF16 ? 1.0f : 2048.0f;

template <bool kBF16>
__device__ inline void split_pair(float x, float y, uint32_t& high, uint32_t& low) {
  if constexpr (kBF16) {
    const __nv_bfloat162 h = __floats2bfloat162_rn(x, y);
    const float2 back = __bfloat1622float2(h);
    high = bits_of(h);
    low = bits_of(__floats2bfloat162_rn(x - back.x, y - back.y));
  } else {
    constexpr float kMost = 65504.0f;
    x = fminf(fmaxf(x, -kMost), kMost);
    y = fminf(fmaxf(y, -kMost), kMost);
    const __half2 h = __floats2half2_rn(x, y);
    const float2 back = __half22float2(h);
    high = bits_of(h);
    low = bits_of(__floats2half2_rn((x - back.x) * kLowFactor<false>, (y - back.y) * kLowFactor<false>));
  }
}

}  // namespace edgewise::cuda
