// A warp's share of a product within the kernel of a step.
#pragma once

#include "backends/cuda/step_feed.cuh"
#include "backends/cuda/step_stage.cuh"
#include "backends/cuda/stream_weights.cuh"

namespace edgewise::cuda {

// A chunk's products, added to `partial`, or with scales of chunks to `total`.
template <Encoding kEncoding, Scaling kScaling>
__device__ inline void multiply_chunk(const StepShape& shape, const std::byte* stage, const StageScales& scales,
                                      int chunks, int c, int chunk, const uint16_t* x, float (&partial)[2][4],
                                      float (&total)[4]) {
  constexpr bool kBF16 = kEncoding == Encoding::kBF16;
  using Piece = Chunk<kEncoding>;
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  Piece piece;
  const auto* words = reinterpret_cast<const uint4*>(stage) + c * Piece::kWords * 32 + lane;
#pragma unroll
  for (int w = 0; w < Piece::kWords; ++w) piece.words[w] = words[w * 32];
  LaneRows rows;
  const std::byte* behind = stage + chunks * Piece::kWords * 512;
  const int column = kScaling == Scaling::kRow ? 0 : scale_column(shape, chunk, t) - scales.first;
  float2 chunk_scales = {};
  if constexpr (kScaling == Scaling::kChunks) chunk_scales = reinterpret_cast<const float2*>(behind)[column * 8 + g];
  if constexpr (kScaling == Scaling::kLanes) {
    const __half2 both = reinterpret_cast<const __half2*>(behind)[column * 8 + g];
    rows.scale[0] = __half2half2(__low2half(both));
    rows.scale[1] = __half2half2(__high2half(both));
  }
  if constexpr (Piece::kInteger) {
    if (shape.zeros) {
      const __half2 both = reinterpret_cast<const __half2*>(behind + scales.count * scale_bytes(shape))[column * 8 + g];
      const __half2 biased = __hadd2(both, __float2half2_rn(1024.0f));
      rows.zero[0] = __half2half2(__low2half(biased));
      rows.zero[1] = __half2half2(__high2half(biased));
    } else {
      rows.zero[0] = rows.zero[1] = __float2half2_rn(kEncoding == Encoding::kInt4 ? 1032.0f : 1152.0f);
    }
  }
  uint4 halves[2] = {};
  if (x != nullptr) {
    const auto* from = reinterpret_cast<const uint4*>(x + t * 16);
    halves[0] = from[0];
    halves[1] = from[1];
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    uint32_t a[4];
    operand<kEncoding>(piece, i, rows, a);
    if constexpr (kScaling == Scaling::kLanes) {
#pragma unroll
      for (int r = 0; r < 4; ++r) a[r] = bits_of(__hmul2(half2_of(a[r]), rows.scale[r % 2]));
    }
    const uint4& half = halves[i / 2];
    multiply_tile<kBF16>(partial[i % 2], a, i % 2 == 0 ? half.x : half.z, i % 2 == 0 ? half.y : half.w);
  }
  if constexpr (kScaling == Scaling::kChunks) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      total[r] = fmaf(r < 2 ? chunk_scales.x : chunk_scales.y, partial[0][r] + partial[1][r], total[r]);
      partial[0][r] = partial[1][r] = 0;
    }
  }
}

// This warp's chunks, as they come.
template <Encoding kEncoding, Scaling kScaling>
__device__ inline void multiply(const StepCall& call, const StepOp& op, const StepShare& share, const Memory& memory,
                                Feed& feed) {
  constexpr bool kBF16 = kEncoding == Encoding::kBF16;
  const StepShape& shape = call.shapes[op.shape];
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int tokens = op.of_rows ? call.rows : call.tokens;
  const int stride = (share.chunk_end - share.chunk_begin) * kChunk + kPad;
  const uint16_t* x = g < 2 * tokens ? reinterpret_cast<const uint16_t*>(memory.scratch) + g * stride : nullptr;
  float* sums = memory.sums + warp * call.most_sums * call.most_rows * kRows;
  float partial[2][4] = {};
  float total[4] = {};
  ShareCursor cursor(share, warp);
#pragma unroll 1
  while (cursor.left > 0) {
    const int chunks = cursor.stage(shape, share);
    StageScales scales = {0, 1};
    if constexpr (kScaling != Scaling::kRow) scales = scales_of(shape, cursor.chunk, chunks);
    const std::byte* stage = feed.wait(memory.ring);
#pragma unroll 2
    for (int c = 0; c < chunks; ++c) {
      const int chunk = cursor.chunk + c;
      multiply_chunk<kEncoding, kScaling>(shape, stage, scales, chunks, c, chunk,
                                          x != nullptr ? x + (chunk - share.chunk_begin) * kChunk : nullptr, partial,
                                          total);
    }
    feed.release();
    const bool ended = cursor.advance(share, chunks);
    if (!ended && cursor.left > 0) continue;
    if (t < tokens) {
      float found[4];
#pragma unroll
      for (int r = 0; r < 4; ++r) found[r] = kScaling == Scaling::kChunks ? total[r] : partial[0][r] + partial[1][r];
      sums[t * kRows + g] = found[0] + found[1] * (1.0f / kLowFactor<kBF16>);
      sums[t * kRows + g + 8] = found[2] + found[3] * (1.0f / kLowFactor<kBF16>);
    }
    sums += call.most_rows * kRows;
#pragma unroll
    for (int r = 0; r < 4; ++r) partial[0][r] = partial[1][r] = total[r] = 0;
  }
}

template <Encoding kEncoding>
__device__ inline void multiply_scaled(const StepCall& call, const StepOp& op, const StepShare& share,
                                       const Memory& memory, Feed& feed) {
  switch (call.shapes[op.shape].scaling) {
    case Scaling::kRow:
      return multiply<kEncoding, Scaling::kRow>(call, op, share, memory, feed);
    case Scaling::kChunks:
      return multiply<kEncoding, Scaling::kChunks>(call, op, share, memory, feed);
    case Scaling::kLanes:
      return multiply<kEncoding, Scaling::kLanes>(call, op, share, memory, feed);
  }
}

__device__ inline void multiply_any(const StepCall& call, const StepOp& op, const StepShare& share,
                                    const Memory& memory, Feed& feed) {
  switch (call.shapes[op.shape].encoding) {
    case Encoding::kF16:
      return multiply<Encoding::kF16, Scaling::kRow>(call, op, share, memory, feed);
    case Encoding::kBF16:
      return multiply<Encoding::kBF16, Scaling::kRow>(call, op, share, memory, feed);
    case Encoding::kF8:
      return multiply_scaled<Encoding::kF8>(call, op, share, memory, feed);
    case Encoding::kInt8:
      return multiply_scaled<Encoding::kInt8>(call, op, share, memory, feed);
    case Encoding::kInt4:
      return multiply_scaled<Encoding::kInt4>(call, op, share, memory, feed);
    default:
      return multiply<Encoding::kF4, Scaling::kLanes>(call, op, share, memory, feed);
  }
}

}  // namespace edgewise::cuda
