// The kernel of a step of up to four tokens (step_kernel.h). Its operators are Linears, with the norm in front and the
// gate or sum behind them, and attention.
#include "backends/cuda/step_kernel.h"

#include "backends/cuda/step_attention.cuh"
#include "backends/cuda/step_feed.cuh"
#include "backends/cuda/step_packets.cuh"
#include "backends/cuda/stream_weights.cuh"

namespace edgewise::cuda {
namespace {

constexpr int kPad = 8;                     // halves; spreads operand loads over the banks
constexpr float kNormedUnit = 1.0f / 64;    // keeps what is not yet divided by its root mean square in range
constexpr int kSpan = kStepThreads * 4;     // columns between a thread's quads
constexpr int kRows = static_cast<int>(kBlockRows);
constexpr int kChunk = static_cast<int>(kChunkColumns);

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

// silu(x) up, or the tanh form of gelu, which is x sigmoid(2 y) too.
__device__ inline float gated(Source gate, float x, float up) {
  const float z = gate == Source::kSwiGlu ? x : 1.5957691216057308f * (x + 0.044715f * x * x * x);
  return x * up / (1.0f + __expf(-z));
}

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

// This block's columns of x, from all that have a part in them, to shared memory. A thread takes kWidth quads of columns
// at a time.
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

// A chunk's products, added to `partial`, or with scales of chunks to `total`.
template <Encoding kEncoding, Scaling kScaling>
__device__ inline void multiply_chunk(const StepShape& shape, const std::byte* stage, const StageScales& scales, int chunks,
                                      int c, int chunk, const uint16_t* x, float (&partial)[2][4], float (&total)[4]) {
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

// What multiplies the rows of this multiprocessor's blocks and what is added to them: asked for before x is there,
// needed in the end. [blocks][16] each.
__device__ inline void ask_rows(const StepCall& call, const StepOp& op, const StepShare& share, const Memory& memory) {
  const StepShape& shape = call.shapes[op.shape];
#pragma unroll 1
  for (int i = threadIdx.x; i < share.blocks * kRows; i += kStepThreads) {
    const BlockPlace place = place_of(shape, share.first[0] + i / kRows);
    const int n = place.block * kRows + i % kRows;
    copy_word(memory.factors + i, op.parts[place.part] + (static_cast<int64_t>(shape.factors_at[place.part]) * 256 + n * 4));
    const float* bias = op.bias[place.part];
    if (bias == nullptr || n >= shape.rows[place.part])
      memory.bias[i] = 0;
    else
      copy_word(memory.bias + i, bias + n);
    if (i % kRows == 0)
      copy_word(reinterpret_cast<float*>(memory.block_warps + i / kRows), call.block_warps + share.words_at + i / kRows);
  }
}

// What the warps found of a row of a block: it went through the hands of neighbours.
__device__ inline float sum_warps(const StepCall& call, const Memory& memory, int token, int local, int row) {
  const BlockWarps warps = memory.block_warps[local];
  const int step = call.most_sums * call.most_rows * kRows;
  const float* sums = memory.sums + token * kRows + row;
  float sum = sums[warps.first * step + warps.index * call.most_rows * kRows];
#pragma unroll
  for (int w = 1; w < kStepWarps; ++w) {
    if (w > warps.first && (warps.warps >> w & 1) != 0) sum += sums[w * step];
  }
  return sum;
}

// The block's results on their way: [token][block or pair][row].
__device__ inline void send_results(const StepCall& call, const StepOp& op, const StepShare& share, const Memory& memory,
                                    uint32_t number) {
  const StepShape& shape = call.shapes[op.shape];
  const int units = shape.paired ? share.blocks / 2 : share.blocks;
  const int items = units * kRows * (op.of_rows ? call.rows : call.tokens);
#pragma unroll 1
  for (int index = threadIdx.x; index < items; index += kStepThreads) {
    int unit = index / kRows;
    int token = 0;
    for (; unit >= units; unit -= units) ++token;
    const int row = index % kRows;
    const int local = shape.paired ? 2 * unit : unit;  // of this multiprocessor's blocks
    const int block = share.first[0] + local;
    const int slot = local == 0 ? share.first_slot : share.slot;
    const float inverse = op.norm != nullptr ? memory.inverse[token] : 1.0f;
    float value = 0;
    float gate = 0;
#pragma unroll 1
    for (int i = 0; i <= (shape.paired ? 1 : 0); ++i) {
      gate = value;
      const int at = (local + i) * kRows + row;
      value = sum_warps(call, memory, token, local + i, row) * (memory.factors[at] * inverse);
      if (slot == 0) value += memory.bias[at];
    }
    if (op.residual && slot == 0) value += memory.kept[token * call.kept_columns + local * kRows + row];
    if (shape.paired) value = gated(op.gate, gate, value);
    const int column = (shape.paired ? block / 2 : block) * kRows + row;
    if (op.result == nullptr)
      send(place_in(op.out, slot, token, column), value, number);
    else if (column < shape.rows[0])
      op.result[static_cast<int64_t>(token) * shape.rows[0] + column] = value;
  }
}

// By a thread a token: what the norm multiplies with.
__device__ inline void invert_squares(const StepOp& op, const Memory& memory, int token) {
  float squares = 0;
#pragma unroll
  for (int w = 0; w < kStepWarps; ++w) squares += memory.squares[w][token];
  memory.inverse[token] = rsqrtf(squares / static_cast<float>(op.k) + op.epsilon) * (1.0f / kNormedUnit);
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

__device__ __forceinline__ void run_linear(const StepCall& call, const StepOp& op, const StepShare* shares, const Memory& memory,
                                  uint32_t number, Feed& feed) {
  const StepShape& shape = call.shapes[op.shape];
  const StepShare& share = shares[op.shape];
  const auto has_work = [](const StepShare& of) { return of.warps[0] != of.warps[kStepWarps]; };
  if (!has_work(share) && (op.keep < 0 || !has_work(shares[op.keep]))) return;
  if (op.next_norm != nullptr && static_cast<int>(threadIdx.x) * 32 < op.next_k)
    asm volatile("prefetch.global.L2 [%0];" ::"l"(op.next_norm + threadIdx.x * 32));
  if (has_work(share)) ask_rows(call, op, share, memory);
  if (shape.encoding == Encoding::kBF16)
    stage_any<true>(call, op, shares, memory, number - 1);
  else
    stage_any<false>(call, op, shares, memory, number - 1);
  __syncthreads();
  if (!has_work(share)) return;
  if (op.norm != nullptr && static_cast<int>(threadIdx.x) >= kStepThreads - kMostDecodeTokens)
    invert_squares(op, memory, kStepThreads - 1 - static_cast<int>(threadIdx.x));
  multiply_any(call, op, share, memory, feed);
  asm volatile("cp.async.wait_all;" ::: "memory");  // rows' factors
  __syncthreads();
  send_results(call, op, share, memory, number);
  feed.refill();
}

// Brings words from global to shared memory; by all threads.
template <typename T>
__device__ inline void fetch(const T* from, T* to, int count) {
  const int words = count * static_cast<int>(sizeof(T) / 4);
#pragma unroll 1
  for (int i = threadIdx.x; i < words; i += kStepThreads)
    reinterpret_cast<uint32_t*>(to)[i] = __ldg(reinterpret_cast<const uint32_t*>(from) + i);
}

// The next operator's description, on its way while this one runs.
__device__ inline void fetch_later(const StepOp* from, StepOp* to) {
  const auto at = static_cast<size_t>(threadIdx.x) * 16;
  if (at < sizeof(StepOp))
    copy_words(reinterpret_cast<std::byte*>(to) + at, reinterpret_cast<const std::byte*>(from) + at);
}

__global__ void __launch_bounds__(kStepThreads, 1) step_kernel(const __grid_constant__ StepCall call) {
  extern __shared__ __align__(128) std::byte shared[];
  __shared__ StepShare shares[kMostShapes];
  __shared__ StepOp ops[2];
  __shared__ float squares[kStepWarps][kMostDecodeTokens];
  __shared__ float inverse[kMostDecodeTokens];
  __shared__ StepTilesHere tiles[kMostStepTiles];
  __shared__ uint64_t barriers[kStepWarps][kMostRingDepth];
  const int warp = threadIdx.x / 32;
  auto* linears = reinterpret_cast<StepLinear*>(shared + call.linears_at);
  for (int i = 0; i < call.shape_count; ++i)
    fetch(call.shares + i * gridDim.x + blockIdx.x, shares + i, 1);
  fetch(call.linears, linears, call.linear_count);
  fetch(call.ops, ops, 1);
#pragma unroll 1
  for (int i = 0; i < kMostStepTiles; ++i) bring_tile(call, i, tiles[i]);
  const uint32_t first = *call.number * static_cast<uint32_t>(call.numbers);
  __syncthreads();
  std::byte* ring = shared + warp * call.ring_depth * kStageBytes;
  Feed feed(call, linears, shares, call.linear_count, ring, barriers[warp]);
  feed.begin();
  const Memory memory{ring, shared + call.scratch_at, reinterpret_cast<float*>(shared + call.sums_at),
                      reinterpret_cast<float*>(shared + call.kept_at),
                      reinterpret_cast<float*>(shared + call.rows_at),
                      reinterpret_cast<float*>(shared + call.rows_at) + call.most_blocks * kRows, squares, inverse,
                      reinterpret_cast<BlockWarps*>(shared + call.rows_at) + 2 * call.most_blocks * kRows};
  for (int i = 0; i < call.op_count; ++i) {
    const StepOp& op = ops[i % 2];
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
    if (i + 1 < call.op_count) fetch_later(call.ops + i + 1, ops + (i + 1) % 2);
    const uint32_t number = first + static_cast<uint32_t>(i) + 1;
    if (op.is_attention)
      attend_step(call, op, tiles[op.tiles], number, memory.scratch);
    else
      run_linear(call, op, shares, memory, number, feed);
  }
}

}  // namespace

bool run_step(cudaStream_t stream, const StepCall& call, int multiprocessors) {
  // Where this fails the launch does too, in every step, and the step says so.
  [[maybe_unused]] static const bool raised =
      cudaFuncSetAttribute(step_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostStepShared) == cudaSuccess;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(multiprocessors));
  config.blockDim = dim3(kStepThreads);
  config.dynamicSmemBytes = static_cast<size_t>(call.shared_bytes);
  config.stream = stream;
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeCooperative;  // all blocks at once, or none: they wait for each other
  attribute.val.cooperative = 1;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, step_kernel, call) == cudaSuccess;
}

}  // namespace edgewise::cuda
