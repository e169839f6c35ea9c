// A warp's share of a product within the kernel of a step.
#pragma once

#include "backends/cuda/step_feed.cuh"
#include "backends/cuda/step_stage.cuh"
#include "backends/cuda/stream_weights.cuh"

namespace edgewise::cuda {

// A warp's sums over its chunks of one block. kZeros: the zero points of integers are stored.
template <Encoding kEncoding, Scaling kScaling, bool kZeros>
class BlockProduct {
 public:
  using Piece = Chunk<kEncoding>;
  static constexpr bool kBF16 = kEncoding == Encoding::kBF16;

  __device__ BlockProduct(const StepShape& shape, int lane)
      : lane_(lane), scale_magic_(shape.scale_magic), last_column_(shape.scale_columns - 1) {}

  // The columns of scales of a stage.
  __device__ StageScales scales_of(int chunk, int chunks) const {
    if constexpr (kScaling == Scaling::kRow) return {0, 1};
    const int first = column_of(chunk, 0);
    return {first, column_of(chunk + chunks - 1, 3) - first + 1};
  }

  // Chunk `c` of the `chunks` of a stage, which is number `chunk` of its row. `x`: a lane's 16 columns of the operand.
  __device__ void add(const std::byte* stage, const StageScales& scales, int chunks, int c, int chunk,
                      const uint16_t* x) {
    const int g = lane_ / 4;
    Piece piece;
    const auto* words = reinterpret_cast<const uint4*>(stage) + c * Piece::kWords * 32 + lane_;
#pragma unroll
    for (int w = 0; w < Piece::kWords; ++w) piece.words[w] = words[w * 32];
    const auto* from = reinterpret_cast<const uint4*>(x);
    const uint4 halves[2] = {from[0], from[1]};
    const std::byte* behind = stage + chunks * Piece::kWords * 512;
    const int column = kScaling == Scaling::kRow ? 0 : column_of(chunk, lane_ % 4) - scales.first;
    LaneRows rows;
    if constexpr (kScaling == Scaling::kLanes) {
      const __half2 both = reinterpret_cast<const __half2*>(behind)[column * 8 + g];
      rows.scale[0] = __half2half2(__low2half(both));
      rows.scale[1] = __half2half2(__high2half(both));
    }
    if constexpr (Piece::kInteger) read_zeros(behind, scales, column * 8 + g, rows);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t a[4];
      operand<kEncoding>(piece, i, rows, a);
      if constexpr (kScaling == Scaling::kLanes) {
#pragma unroll
        for (int r = 0; r < 4; ++r) a[r] = bits_of(__hmul2(half2_of(a[r]), rows.scale[r % 2]));
      }
      const uint4& half = halves[i / 2];
      multiply_tile<kBF16>(partial_[i % 2], a, i % 2 == 0 ? half.x : half.z, i % 2 == 0 ? half.y : half.w);
    }
    if constexpr (kScaling == Scaling::kChunks) {
      const float2 scale = reinterpret_cast<const float2*>(behind)[column * 8 + g];
      total_[0] = fmaf(scale.x, take(0), total_[0]);
      total_[1] = fmaf(scale.y, take(1), total_[1]);
      clear();
    }
  }
  // Of rows g and g + 8 of token t; begins anew.
  __device__ float2 end() {
    const float2 found = kScaling == Scaling::kChunks ? float2{total_[0], total_[1]} : float2{take(0), take(1)};
    total_[0] = total_[1] = 0;
    clear();
    return found;
  }

 private:
  // Of a row of tiles: high and low columns as one.
  __device__ float take(int of_row) const {
    const float high = partial_[0][2 * of_row] + partial_[1][2 * of_row];
    const float low = partial_[0][2 * of_row + 1] + partial_[1][2 * of_row + 1];
    return fmaf(low, 1.0f / kLowFactor<kBF16>, high);
  }
  __device__ void clear() {
#pragma unroll
    for (int r = 0; r < 4; ++r) partial_[0][r] = partial_[1][r] = 0;
  }
  __device__ int column_of(int chunk, int lane_columns) const {
    const unsigned index = kScaling == Scaling::kLanes ? chunk * 4 + lane_columns : chunk;
    return min(static_cast<int>(index * scale_magic_ >> 20), last_column_);
  }
  __device__ void read_zeros(const std::byte* behind, const StageScales& scales, int at, LaneRows& rows) {
    if constexpr (!kZeros) {
      rows.zero[0] = rows.zero[1] = __float2half2_rn(1024.0f + kMiddle<kEncoding>);
      return;
    }
    constexpr int kScaleBytes = static_cast<int>(kBlockRows) * 2;  // of a column
    const __half2 both = reinterpret_cast<const __half2*>(behind + scales.count * kScaleBytes)[at];
    const __half2 biased = __hadd2(both, __float2half2_rn(1024.0f));
    rows.zero[0] = __half2half2(__low2half(biased));
    rows.zero[1] = __half2half2(__high2half(biased));
  }

  int lane_;
  uint32_t scale_magic_;
  int last_column_;
  float partial_[2][4] = {};
  float total_[2] = {};
};

// A warp's chunks as they come: add(chunk, chunks) for those from number `chunk` of the slice on, which the ring's next
// stage has, end() behind the last one of 16 rows.
template <typename Add, typename End>
__device__ inline void walk_stages(const StepShape& shape, const StepShare& share, int warp, Ring& ring, Add add,
                                   End end) {
  const int width = share.chunk_end - share.chunk_begin;
  int left = static_cast<int>(share.warps[warp + 1] - share.warps[warp]);
  int chunk = static_cast<int>(share.warps[warp]) - share.first[warp] * width;
#pragma unroll 1
  while (left > 0) {
    const int chunks = min(min(shape.stage_chunks, width - chunk), left);
    add(chunk, chunks);
    chunk += chunks;
    ring.release();
    left -= chunks;
    if (chunk < width && left > 0) continue;
    chunk = 0;
    end();
  }
}

// This warp's chunks, with x as pairs.
template <Encoding kEncoding, Scaling kScaling, bool kZeros = false>
__device__ inline void multiply(const StepCall& call, const StepOp& op, const StepShare& share, const Memory& memory,
                                Ring& ring) {
  constexpr int kMostChunks = kStageWeights / (Chunk<kEncoding>::kWords * 512);
  constexpr int kTogether = kMostChunks < 4 ? kMostChunks : 4;  // whose instructions are mixed
  using Product = BlockProduct<kEncoding, kScaling, kZeros>;
  const StepShape& shape = call.shapes[op.shape];
  const int thread = this_thread();
  const int warp = thread / 32;
  const int g = thread % 32 / 4;
  const int t = thread % 4;
  const int tokens = op.of_rows ? call.rows : call.tokens;
  const int stride = stride_of(share);
  // Columns of the operand that no token has repeat the last one's: nobody looks at their products.
  const auto* x = reinterpret_cast<const uint16_t*>(memory.scratch) + min(g, 2 * tokens - 1) * stride + t * 16;
  float* sums = memory.sums + warp * call.most_sums * call.most_rows * kRows + t * kRows + g;
  Product product(shape, thread % 32);
  const auto add_stage = [&](int chunk, int chunks) {
    const StageScales scales = product.scales_of(share.chunk_begin + chunk, chunks);
    const std::byte* stage = ring.wait();
    const auto add = [&](int c) {
      product.add(stage, scales, chunks, c, share.chunk_begin + chunk + c, x + (chunk + c) * kChunk);
    };
    int done = 0;
#pragma unroll 1
    for (; done + kTogether <= chunks; done += kTogether) {
#pragma unroll
      for (int c = 0; c < kTogether; ++c) add(done + c);
    }
#pragma unroll 1
    for (; done < chunks; ++done) add(done);
  };
  walk_stages(shape, share, warp, ring, add_stage, [&] {
    const float2 found = product.end();
    if (t < tokens) {
      sums[0] = found.x;
      sums[8] = found.y;
    }
    sums += call.most_rows * kRows;
  });
}

// The same with integers, and x as digits.
template <Encoding kEncoding, bool kScaled, bool kZeros, int kPairs>
__device__ inline void multiply_digits(const StepCall& call, const StepOp& op, const StepShare& share,
                                       const Memory& memory, Ring& ring) {
  constexpr int kChunkBytes = Chunk<kEncoding>::kWords * 512;
  constexpr int kScaleBytes = kScaled ? kRows * 4 : 0;  // of a column
  const StepShape& shape = call.shapes[op.shape];
  const int thread = this_thread();
  const int warp = thread / 32;
  const int tokens = op.of_rows ? call.rows : call.tokens;
  const int width = share.chunk_end - share.chunk_begin;
  const bool in_pairs = !kScaled || (shape.even_scales && share.chunk_begin % 2 == 0);
  float* sums = memory.sums + warp * call.most_sums * call.most_rows * kRows;
  DigitProduct<kEncoding, kScaled, kZeros, kPairs> product(
      shape, Digits(memory.scratch, tokens, width * kChunk, shape.zeros), tokens, thread);
  const auto add_stage = [&](int chunk, int chunks) {
    const int first_column = product.scale_column(share.chunk_begin + chunk);
    const int columns = product.scale_column(share.chunk_begin + chunk + chunks - 1) - first_column + 1;
    const std::byte* stage = ring.wait();
    const std::byte* scales = stage + chunks * kChunkBytes;
    const std::byte* zeros = scales + columns * kScaleBytes;
#pragma unroll 1
    for (int c = 0; c < chunks;) {
      const int column = product.scale_column(share.chunk_begin + chunk + c) - first_column;
      const std::byte* its_scales = scales + column * kScaleBytes;
      const std::byte* its_zeros = zeros + column * kRows * 2;
      if (in_pairs && (chunk + c) % 2 == 0 && c + 1 < chunks) {
        product.template add<2>(stage + c * kChunkBytes, chunk + c, its_scales, its_zeros);
        c += 2;
      } else {
        product.template add<1>(stage + c * kChunkBytes, chunk + c, its_scales, its_zeros);
        ++c;
      }
    }
  };
  walk_stages(shape, share, warp, ring, add_stage, [&] {
    product.end(sums, tokens);
    sums += call.most_rows * kRows;
  });
}

template <Encoding kEncoding, bool kScaled, bool kZeros>
__device__ inline void multiply_tokens(const StepCall& call, const StepOp& op, const StepShare& share,
                                       const Memory& memory, Ring& ring) {
  if ((op.of_rows ? call.rows : call.tokens) <= 2)
    multiply_digits<kEncoding, kScaled, kZeros, 1>(call, op, share, memory, ring);
  else
    multiply_digits<kEncoding, kScaled, kZeros, 2>(call, op, share, memory, ring);
}

template <Encoding kEncoding>
__device__ inline void multiply_integers(const StepCall& call, const StepOp& op, const StepShare& share,
                                         const Memory& memory, Ring& ring) {
  const StepShape& shape = call.shapes[op.shape];
  if (shape.scaling == Scaling::kLanes) {
    if (shape.zeros) return multiply<kEncoding, Scaling::kLanes, true>(call, op, share, memory, ring);
    return multiply<kEncoding, Scaling::kLanes>(call, op, share, memory, ring);
  }
  const bool scaled = shape.scaling == Scaling::kChunks;
  if (shape.zeros && scaled) return multiply_tokens<kEncoding, true, true>(call, op, share, memory, ring);
  if (shape.zeros) return multiply_tokens<kEncoding, false, true>(call, op, share, memory, ring);
  if (scaled) return multiply_tokens<kEncoding, true, false>(call, op, share, memory, ring);
  return multiply_tokens<kEncoding, false, false>(call, op, share, memory, ring);
}

__device__ inline void multiply_f8(const StepCall& call, const StepOp& op, const StepShare& share, const Memory& memory,
                                   Ring& ring) {
  switch (call.shapes[op.shape].scaling) {
    case Scaling::kRow:
      return multiply<Encoding::kF8, Scaling::kRow>(call, op, share, memory, ring);
    case Scaling::kChunks:
      return multiply<Encoding::kF8, Scaling::kChunks>(call, op, share, memory, ring);
    case Scaling::kLanes:
      return multiply<Encoding::kF8, Scaling::kLanes>(call, op, share, memory, ring);
  }
}

__device__ inline void multiply_any(const StepCall& call, const StepOp& op, const StepShare& share,
                                    const Memory& memory, Ring& ring) {
  switch (call.shapes[op.shape].encoding) {
    case Encoding::kF16:
      return multiply<Encoding::kF16, Scaling::kRow>(call, op, share, memory, ring);
    case Encoding::kBF16:
      return multiply<Encoding::kBF16, Scaling::kRow>(call, op, share, memory, ring);
    case Encoding::kF8:
      return multiply_f8(call, op, share, memory, ring);
    case Encoding::kInt8:
      return multiply_integers<Encoding::kInt8>(call, op, share, memory, ring);
    case Encoding::kInt4:
      return multiply_integers<Encoding::kInt4>(call, op, share, memory, ring);
    default:
      return multiply<Encoding::kF4, Scaling::kLanes>(call, op, share, memory, ring);
  }
}

}  // namespace edgewise::cuda
