// How kernels read weights in the layout of layout.h: a lane's part of a chunk, and how it becomes operands.
#pragma once

#include <type_traits>

#include "backends/cuda/encoding.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/mma.cuh"

namespace edgewise::cuda {

// The part that has block number `block` of 16 rows.
__device__ inline const StreamPart& part_of(const StreamCall& matrix, int block) {
  int number = 0;
  while (number + 1 < matrix.part_count && block >= matrix.parts[number + 1].first_block) ++number;
  return matrix.parts[number];
}

// `kWords` 16-byte words, 32 * 16 bytes apart.
template <Encoding kEncoding>
struct Chunk {
  static constexpr int kWords = kEncoding == Encoding::kF16 || kEncoding == Encoding::kBF16  ? 4
                                : kEncoding == Encoding::kF8 || kEncoding == Encoding::kInt8 ? 2
                                                                                             : 1;
  static constexpr bool kInteger = kEncoding == Encoding::kInt8 || kEncoding == Encoding::kInt4;
  uint4 words[kWords];
};

// Zero points of a lane's two rows, and what multiplies their weights where each lane has scales of its own.
struct LaneRows {
  __half2 zero[2];
  __half2 scale[2];
};

// Tile `i` of a chunk as an operand. Integers become halves by standing in the mantissa of 1024; see layout.h for the
// 4-bit floats.
template <Encoding kEncoding>
__device__ inline void operand(const Chunk<kEncoding>& chunk, int i, const LaneRows& rows, uint32_t (&a)[4]) {
  if constexpr (Chunk<kEncoding>::kWords == 4) {
    a[0] = chunk.words[i].x;
    a[1] = chunk.words[i].y;
    a[2] = chunk.words[i].z;
    a[3] = chunk.words[i].w;
  } else if constexpr (Chunk<kEncoding>::kWords == 2) {
    const uint4& word = chunk.words[i / 2];
    const uint32_t pair[2] = {i % 2 == 0 ? word.x : word.z, i % 2 == 0 ? word.y : word.w};
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      if constexpr (kEncoding == Encoding::kInt8) {
        const uint32_t biased = __byte_perm(pair[r % 2], 0x64646464u, r < 2 ? 0x4240 : 0x4341);
        a[r] = bits_of(__hsub2(half2_of(biased), rows.zero[r % 2]));
      } else {
        a[r] = halves_of_f8(pair[r % 2], r >= 2);
      }
    }
  } else {
    const uint4& all = chunk.words[0];
    const uint32_t word = i == 0 ? all.x : i == 1 ? all.y : i == 2 ? all.z : all.w;
    if constexpr (kEncoding == Encoding::kInt4) {
      const uint32_t next = word >> 8;
      const __half2 sixteenth = __float2half2_rn(0.0625f);
      // 1024 + q, and 1024 + 16 q, whose sixteenth is 64 + q.
      a[0] = bits_of(__hsub2(half2_of(and_or(word, 0x000f000fu, 0x64006400u)), rows.zero[0]));
      a[2] = bits_of(__hsub2(half2_of(and_or(next, 0x000f000fu, 0x64006400u)), rows.zero[0]));
      const __half2 offset = __hsub2(__float2half2_rn(960.0f), rows.zero[1]);  // -(64 + zero)
      a[1] = bits_of(__hfma2(half2_of(and_or(word, 0x00f000f0u, 0x64006400u)), sixteenth, offset));
      a[3] = bits_of(__hfma2(half2_of(and_or(next, 0x00f000f0u, 0x64006400u)), sixteenth, offset));
    } else {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const uint32_t high = word << (12 - 4 * r);
        a[r] = and_or(high, 0x80008000u, (high & 0x70007000u) >> 3);
      }
    }
  }
}

// Tiles 2j and 2j + 1 of a chunk of integers as the first operand of mma.m16n8k32, in units of kIntegerUnit, less
// kMiddle. `signs`: 0x80808080 in a register, so that one instruction has two masks.
template <Encoding kEncoding>
__device__ inline void integer_operand(const Chunk<kEncoding>& chunk, int j, uint32_t signs, uint32_t (&a)[4]) {
  if constexpr (kEncoding == Encoding::kInt8) {
    const uint4& word = chunk.words[j];
    a[0] = word.x ^ signs;
    a[1] = word.y ^ signs;
    a[2] = word.z ^ signs;
    a[3] = word.w ^ signs;
  } else {
    const uint4& all = chunk.words[0];
    const uint32_t pair[2] = {j == 0 ? all.x : all.z, j == 0 ? all.y : all.w};
#pragma unroll
    for (int r = 0; r < 4; ++r) a[r] = ((r % 2 == 0 ? pair[r / 2] << 4 : pair[r / 2]) ^ signs) & 0xf0f0f0f0u;
  }
}
// Four bits stand in the upper half of a byte.
template <Encoding kEncoding>
inline constexpr float kIntegerUnit = kEncoding == Encoding::kInt4 ? 1.0f / 16 : 1.0f;
// The zero point of those that have none stored.
template <Encoding kEncoding>
inline constexpr float kMiddle = kEncoding == Encoding::kInt4 ? 8.0f : 128.0f;

// Calls run(encoding, scaling) with the two as types, for a format that matrices may have.
template <typename Run>
void with_format(int encoding, int scaling, Run run) {
  const auto scaled = [&](auto e) {
    switch (static_cast<Scaling>(scaling)) {
      case Scaling::kRow:
        return run(e, std::integral_constant<Scaling, Scaling::kRow>());
      case Scaling::kChunks:
        return run(e, std::integral_constant<Scaling, Scaling::kChunks>());
      case Scaling::kLanes:
        return run(e, std::integral_constant<Scaling, Scaling::kLanes>());
    }
  };
  switch (static_cast<Encoding>(encoding)) {
    case Encoding::kF32:
      return;
    case Encoding::kF16:
      return run(std::integral_constant<Encoding, Encoding::kF16>(), std::integral_constant<Scaling, Scaling::kRow>());
    case Encoding::kBF16:
      return run(std::integral_constant<Encoding, Encoding::kBF16>(), std::integral_constant<Scaling, Scaling::kRow>());
    case Encoding::kF8:
      return scaled(std::integral_constant<Encoding, Encoding::kF8>());
    case Encoding::kInt8:
      return scaled(std::integral_constant<Encoding, Encoding::kInt8>());
    case Encoding::kInt4:
      return scaled(std::integral_constant<Encoding, Encoding::kInt4>());
    case Encoding::kF4:
      return run(std::integral_constant<Encoding, Encoding::kF4>(), std::integral_constant<Scaling, Scaling::kLanes>());
  }
}

}  // namespace edgewise::cuda
