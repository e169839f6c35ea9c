// The input of a Linear within the kernel of a step: from packets to operand columns in shared memory.
#pragma once

#include "backends/cuda/mma.cuh"
#include "backends/cuda/step_packets.cuh"

namespace edgewise::cuda {

inline constexpr int kPad = 8;                   // halves; spreads operand loads over the banks
inline constexpr float kNormedUnit = 1.0f / 64;  // keeps what is not yet divided by its root mean square in range
inline constexpr int kSpan = kStepThreads * 4;   // columns between a thread's quads
inline constexpr int kRows = static_cast<int>(kBlockRows);
inline constexpr int kChunk = static_cast<int>(kChunkColumns);

// What the threads of a block share while the step runs.
struct Memory {
  std::byte* ring;     // of this warp
  std::byte* scratch;  // x as operand columns [2 * tokens][stride]
  float* sums;         // [kStepWarps][most_sums][most_rows][16]
  float* kept;         // [tokens][kept_columns]
  float* factors;      // [blocks][16]
  float* bias;
  float (*squares)[kMostDecodeTokens];  // [kStepWarps]
  float* inverse;                       // [kMostDecodeTokens]
  BlockWarps* block_warps;
};

__device__ inline float4 times(float4 a, float4 b) { return {a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w}; }

// Four columns of a token to the operand, and what the norm and the residual need of them.
template <bool kBF16>
__device__ inline void put(const StepCall& call, const StepOp& op, const StepShare* shares, const Memory& memory,
                           int token, int column, int local, int stride, float4 x, float4 norm, float& squares) {
  auto* to = reinterpret_cast<uint16_t*>(memory.scratch) + 2 * token * stride + local;
  if (op.keep >= 0) {
    const int in_kept = column - shares[op.keep].first[0] * kRows;
    if (in_kept >= 0 && in_kept < call.kept_columns)
      *reinterpret_cast<float4*>(memory.kept + token * call.kept_columns + in_kept) = x;
  }
  if (op.norm != nullptr) {
    squares += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
    x = times(x, norm);
    x = {x.x * kNormedUnit, x.y * kNormedUnit, x.z * kNormedUnit, x.w * kNormedUnit};
  }
  uint2 high, low;
  split_pair<kBF16>(x.x, x.y, high.x, low.x);
  split_pair<kBF16>(x.z, x.w, high.y, low.y);
  *reinterpret_cast<uint2*>(to) = high;
  *reinterpret_cast<uint2*>(to + stride) = low;
}

// This block's columns of x, from all that have a part in them, to shared memory. A thread takes kWidth quads of
// columns at a time.
template <bool kBF16, int kWidth, int kSlots>
__device__ inline void stage_x(const StepCall& call, const StepOp& op, const StepShare* shares, const Memory& memory,
                               uint32_t number) {
  const StepShare& share = shares[op.shape];
  const int first = share.chunk_begin * kChunk;
  const int columns = (share.chunk_end - share.chunk_begin) * kChunk;
  const int stride = columns + kPad;
  const int tokens = op.of_rows ? call.rows : call.tokens;
  // Rolled loops: a step's time is that of fetching its instructions where they are many.
#pragma unroll 1
  for (int token = 0; token < tokens; ++token) {
    const int row = op.of_rows ? call.logits_rows[token] : token;
    float squares = 0;
#pragma unroll 1
    for (int begin = static_cast<int>(threadIdx.x) * 4; begin < columns; begin += kWidth * kSpan) {
      float4 norm[kWidth];
      float4 x[kWidth] = {};
      uint32_t used[kWidth];
      int column[kWidth];
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        column[i] = first + begin + i * kSpan;
        const bool there = begin + i * kSpan < columns && column[i] < op.k;
        norm[i] = there && op.norm != nullptr ? __ldg(reinterpret_cast<const float4*>(op.norm + column[i])) : float4{};
        used[i] = !there ? 0u : op.in.used != nullptr ? __ldg(op.in.used + column[i] / kRows) : 1u;
      }
      if (op.x != nullptr) {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          if (used[i] != 0)
            x[i] = *reinterpret_cast<const float4*>(op.x + static_cast<int64_t>(row) * op.k + column[i]);
        }
      } else {
        receive<kWidth, kSlots>(op.in, row, column, used, number, x);
      }
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        const int local = begin + i * kSpan;
        if (local < columns)
          put<kBF16>(call, op, shares, memory, token, column[i], local, stride, x[i], norm[i], squares);
      }
    }
    if (op.norm == nullptr) continue;
    squares = combine_warp(squares, Sum());
    if (threadIdx.x % 32 == 0) memory.squares[threadIdx.x / 32][token] = squares;
  }
}

template <bool kBF16>
__device__ inline void stage_any(const StepCall& call, const StepOp& op, const StepShare* shares, const Memory& memory,
                                 uint32_t number) {
  if (op.in.used == nullptr)
    stage_x<kBF16, 4, 1>(call, op, shares, memory, number);
  else
    stage_x<kBF16, 2, 2>(call, op, shares, memory, number);
}

}  // namespace edgewise::cuda
