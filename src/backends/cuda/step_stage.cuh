// The input of a Linear within the kernel of a step: from packets to operand columns in shared memory.
#pragma once

#include "backends/cuda/mma.cuh"
#include "backends/cuda/step_digits.cuh"
#include "backends/cuda/step_packets.cuh"

namespace edgewise::cuda {

inline constexpr float kNormedUnit = 1.0f / 64;  // keeps what is not yet divided by its root mean square in range
inline constexpr int kSpan = kStepThreads * 4;   // columns between a thread's quads
// Of a quad two columns and the two that many behind them: what neighbours load together are whole sectors of 32 bytes.
inline constexpr int kApart = 4;

// What the threads of a block share while the step runs.
struct Memory {
  std::byte* scratch;                   // x as operand columns [2 * tokens][stride], or as digits
  float* sums;                          // [kStepWarps][most_sums][most_rows][16]
  float* kept;                          // [tokens][kept_columns]
  float (*squares)[kMostDecodeTokens];  // [kStepWarps]
  float* inverse;                       // [kMostDecodeTokens]
  const uint8_t* slot_counts;
};

__device__ inline int stride_of(const StepShare& share) {
  return (share.chunk_end - share.chunk_begin) * kChunk + kPad;
}

__device__ inline float4 times(float4 a, float4 b) { return {a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w}; }

// This block's columns of x, from all that have a part in them, to shared memory.
class Stage {
 public:
  __device__ Stage(const StepCall& call, const StepOp& op, const StepShare* shares, const Memory& memory)
      : call_(call),
        op_(op),
        memory_(memory),
        first_(shares[op.shape].chunk_begin * kChunk),
        columns_((shares[op.shape].chunk_end - shares[op.shape].chunk_begin) * kChunk),
        stride_(columns_ + kPad),
        tokens_(op.of_rows ? call.rows : call.tokens),
        kept_from_(op.keep >= 0 ? shares[op.keep].first[0] * kRows : 0),
        digits_(memory.scratch, tokens_, columns_, call.shapes[op.shape].zeros) {}

  // A thread takes kWidth quads of columns at a time.
  template <Operand kOperand, int kWidth, int kSlots>
  __device__ void run(uint32_t number) {
    // Digits want whole warps.
    const int end = kOperand == Operand::kDigits ? digits_.blocks() * kDigitBlock : columns_;
    // Rolled loops: a step's time is that of fetching its instructions where they are many.
#pragma unroll 1
    for (int token = 0; token < tokens_; ++token) {
      const int row = op_.of_rows ? call_.logits_rows[token] : token;
      float squares = 0;
#pragma unroll 1
      for (int begin = first_of_thread(); begin < end; begin += kWidth * kSpan) {
        float4 norm[kWidth];
        float4 x[kWidth] = {};
        int slots[kWidth];
        int column[kWidth];
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          column[i] = first_ + begin + i * kSpan;
          const bool there = begin + i * kSpan < columns_ && column[i] < op_.k;
          norm[i] = there && op_.norm != nullptr ? quad_at(op_.norm + column[i]) : float4{};
          slots[i] = there ? slots_of(op_.in, memory_.slot_counts, column[i]) : 0;
        }
        if (op_.x != nullptr) {
#pragma unroll
          for (int i = 0; i < kWidth; ++i) {
            if (slots[i] != 0) x[i] = quad_at(op_.x + static_cast<int64_t>(row) * op_.k + column[i]);
          }
        } else {
          receive<kWidth, kSlots, kApart>(op_.in, row, column, slots, number, x);
        }
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          if (begin + i * kSpan < end) put<kOperand>(token, column[i], begin + i * kSpan, x[i], norm[i], squares);
        }
      }
      if (op_.norm == nullptr) continue;
      squares = combine_warp(squares, Sum());
      if (threadIdx.x % 32 == 0) memory_.squares[threadIdx.x / 32][token] = squares;
    }
  }

 private:
  __device__ static int first_of_thread() {
    const int thread = this_thread();
    return thread / 2 * 8 + thread % 2 * 2;
  }
  __device__ static float4 quad_at(const float* from) {
    const float2 first = __ldg(reinterpret_cast<const float2*>(from));
    const float2 second = __ldg(reinterpret_cast<const float2*>(from + kApart));
    return {first.x, first.y, second.x, second.y};
  }

  // Four columns of a token to the operand, and what the norm and the residual need of them.
  template <Operand kOperand>
  __device__ void put(int token, int column, int local, float4 x, float4 norm, float& squares) {
    if (op_.keep >= 0) {
      const int in_kept = column - kept_from_;
      if (in_kept >= 0 && in_kept < call_.kept_columns) {
        float* to = memory_.kept + token * call_.kept_columns + in_kept;
        *reinterpret_cast<float2*>(to) = {x.x, x.y};
        *reinterpret_cast<float2*>(to + kApart) = {x.z, x.w};
      }
    }
    if (op_.norm != nullptr) {
      squares += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
      x = times(x, norm);
      x = {x.x * kNormedUnit, x.y * kNormedUnit, x.z * kNormedUnit, x.w * kNormedUnit};
    }
    if constexpr (kOperand == Operand::kDigits) return digits_.put(token, local, x);
    constexpr bool kBF16 = kOperand == Operand::kBF16;
    uint2 high, low;
    split_pair<kBF16>(x.x, x.y, high.x, low.x);
    split_pair<kBF16>(x.z, x.w, high.y, low.y);
    auto* to = reinterpret_cast<uint16_t*>(memory_.scratch) + 2 * token * stride_ + local;
    *reinterpret_cast<uint32_t*>(to) = high.x;
    *reinterpret_cast<uint32_t*>(to + kApart) = high.y;
    *reinterpret_cast<uint32_t*>(to + stride_) = low.x;
    *reinterpret_cast<uint32_t*>(to + stride_ + kApart) = low.y;
  }

  const StepCall& call_;
  const StepOp& op_;
  const Memory& memory_;
  int first_;
  int columns_;
  int stride_;
  int tokens_;
  int kept_from_;
  Digits digits_;
};

template <Operand kOperand>
__device__ inline void stage_as(const StepCall& call, const StepOp& op, const StepShare* shares, const Memory& memory,
                                uint32_t number) {
  Stage stage(call, op, shares, memory);
  if (op.in.most_slots <= 1)
    stage.run<kOperand, 2, 1>(number);
  else if (op.in.most_slots == 2)
    stage.run<kOperand, 2, 2>(number);
  else
    stage.run<kOperand, 1, 4>(number);
}

__device__ inline void stage_x(const StepCall& call, const StepOp& op, const StepShare* shares, const Memory& memory,
                               uint32_t number) {
  switch (operand_of(call.shapes[op.shape])) {
    case Operand::kBF16:
      return stage_as<Operand::kBF16>(call, op, shares, memory, number);
    case Operand::kF16:
      return stage_as<Operand::kF16>(call, op, shares, memory, number);
    case Operand::kDigits:
      return stage_as<Operand::kDigits>(call, op, shares, memory, number);
  }
}

}  // namespace edgewise::cuda
