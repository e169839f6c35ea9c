// Products of up to four rows, where the time is that of reading the weights. What comes before and behind them is done
// on the way: a norm or a gate in front, a residual behind.
//
// Blocks of 128 threads stay for the whole product and take 16 rows of the matrix after one another, so that loads
// never pause; where there are fewer such rows than blocks, a cluster of blocks shares out their columns. Each row of x
// becomes two columns of an operand, what is high and what is low (mma.cuh), so products are as exact as activations in
// float32. Sums are taken in one fixed order.
#include <cooperative_groups.h>

#include "backends/cuda/device_code.cuh"
#include "backends/cuda/kernels.h"
#include "backends/cuda/stream_weights.cuh"

namespace edgewise::cuda {
namespace {

namespace cg = cooperative_groups;

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kColumns = 8;           // of the operand: two for each row of x
constexpr int kSegmentWords = 16384;  // columns of x at a time, times rows
constexpr int kPad = 8;               // halves; spreads operand loads over the banks

// Chunks a warp has in flight: 128 bytes a lane, or half of that where a row is short.
template <Encoding kEncoding, bool kLong>
inline constexpr int kLoads = 8 / Chunk<kEncoding>::kWords / (Chunk<kEncoding>::kWords == 1 && !kLong ? 2 : 1);

__device__ inline float4 times(float4 a, float4 b) { return {a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w}; }

// Four neighbours of a row of the operand, before they are split. A norm's division by the root mean square is left to
// the end, since a product is linear: here its squares are summed, and the unit keeps large values in range.
constexpr float kNormedUnit = 1.0f / 64;

__device__ inline float4 source(const DecodeCall& call, int token, int column, float& squares) {
  if (column >= call.k) return {0, 0, 0, 0};
  const int64_t at = static_cast<int64_t>(token) * call.k + column;
  const float4 x = *reinterpret_cast<const float4*>(call.source.x + at);
  switch (call.source.source) {
    case Source::kPlain:
      return x;
    case Source::kNormed: {
      squares += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
      const float4 y = times(x, *reinterpret_cast<const float4*>(call.source.norm + column));
      return {y.x * kNormedUnit, y.y * kNormedUnit, y.z * kNormedUnit, y.w * kNormedUnit};
    }
    case Source::kSwiGlu:
      return times({silu(x.x), silu(x.y), silu(x.z), silu(x.w)}, *reinterpret_cast<const float4*>(call.source.up + at));
    case Source::kGeGlu:
      return times({gelu(x.x), gelu(x.y), gelu(x.z), gelu(x.w)}, *reinterpret_cast<const float4*>(call.source.up + at));
    case Source::kGeGluTanh:
      return times({gelu_tanh(x.x), gelu_tanh(x.y), gelu_tanh(x.z), gelu_tanh(x.w)},
                   *reinterpret_cast<const float4*>(call.source.up + at));
  }
  return x;
}

// The columns of x from `first` on, `columns` of them, as operand columns of `stride` halves.
template <bool kBF16, int kTokens>
__device__ inline void stage(const DecodeCall& call, int first, int columns, int stride, uint16_t* to,
                             float (&squares)[kTokens]) {
  for (int i = static_cast<int>(threadIdx.x) * 4; i < columns; i += kThreads * 4) {
#pragma unroll
    for (int token = 0; token < kTokens; ++token) {
      if (token >= call.matrix.tokens) break;
      const float4 x = source(call, token, first + i, squares[token]);
      uint2 high, low;
      split_pair<kBF16>(x.x, x.y, high.x, low.x);
      split_pair<kBF16>(x.z, x.w, high.y, low.y);
      *reinterpret_cast<uint2*>(to + 2 * token * stride + i) = high;
      *reinterpret_cast<uint2*>(to + (2 * token + 1) * stride + i) = low;
    }
  }
}

// What a warp reads next: groups of chunks of one block of rows after another.
struct Place {
  int block = 0;  // of all parts
  int group = 0;
};

template <Encoding kEncoding, Scaling kScaling, int kTokens, bool kLong>
__global__ void __launch_bounds__(kThreads, 4) decode_kernel(const __grid_constant__ DecodeCall call) {
  constexpr bool kBF16 = kEncoding == Encoding::kBF16;
  using Piece = Chunk<kEncoding>;
  constexpr int kGroup = kLoads<kEncoding, kLong>;
  constexpr int kChunk = static_cast<int>(kChunkColumns);
  extern __shared__ __align__(16) uint16_t x_shared[];  // [2 * tokens][stride]
  __shared__ float sums[2][kWarps][kColumns][kBlockRows + 1];
  __shared__ float square_sums[2][kWarps][kTokens];
  [[maybe_unused]] __shared__ float block_sums[kColumns][kBlockRows];
  [[maybe_unused]] __shared__ float block_squares[kTokens];

  const StreamCall& matrix = call.matrix;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  // This block's chunks, in whole groups.
  const int ranks = static_cast<int>(gridDim.x);
  const int rank = static_cast<int>(blockIdx.x);
  const int all_groups = (matrix.chunks + kGroup - 1) / kGroup;
  const int begin = all_groups * rank / ranks * kGroup;
  const int end = min(all_groups * (rank + 1) / ranks * kGroup, matrix.chunks);
  const int first_group = begin + warp * kGroup;
  const int segment_chunks = call.segment / kChunk;
  const int stride = call.segment + kPad;

  const auto part_of = [&](int block) -> const StreamPart& {
    int number = 0;
    while (number + 1 < matrix.part_count && block >= matrix.parts[number + 1].first_block) ++number;
    return matrix.parts[number];
  };
  const auto scale_column = [&](int chunk) {
    const unsigned index = kScaling == Scaling::kLanes ? chunk * 4 + t : chunk;
    return min(static_cast<int>(index * call.scale_magic >> 20), matrix.scale_columns - 1);
  };

  Piece pieces[kGroup];
  float2 scales[kGroup];
  __half2 lane_scales[kGroup];
  const auto load = [&](const Place& place) {
    const StreamPart& part = part_of(place.block);
    const int64_t block = place.block - part.first_block;
    const uint4* weights = part.weights + (block * matrix.chunks + place.group) * (32 * Piece::kWords) + lane;
    const int64_t of_block = block * matrix.scale_columns;
#pragma unroll
    for (int c = 0; c < kGroup; ++c) {
      const bool there = place.group + c < end;
#pragma unroll
      for (int w = 0; w < Piece::kWords; ++w)
        pieces[c].words[w] = there ? __ldcs(weights + (c * Piece::kWords + w) * 32) : make_uint4(0, 0, 0, 0);
      if constexpr (kScaling == Scaling::kChunks) {
        const int64_t at = (of_block + scale_column(place.group + c)) * (kBlockRows / 2) + g;
        scales[c] = there ? __ldcs(static_cast<const float2*>(part.scales) + at) : float2{};
      }
      if constexpr (kScaling == Scaling::kLanes) {
        const int64_t at = (of_block + scale_column(place.group + c)) * (kBlockRows / 2) + g;
        const unsigned bits = there ? __ldcs(static_cast<const unsigned*>(part.scales) + at) : 0u;
        lane_scales[c] = half2_of(bits);
      }
    }
  };
  Place next{static_cast<int>(blockIdx.y), first_group};
  const auto advance = [&] {
    next.group += kWarps * kGroup;
    if (next.group < end) return;
    next.group = first_group;
    next.block += static_cast<int>(gridDim.y);
  };
  if (first_group < end) load(next);
  wait_for_inputs();

  float squares[kTokens] = {};
  const bool once = end - begin <= segment_chunks;
  if (once) stage<kBF16, kTokens>(call, begin * kChunk, (end - begin) * kChunk, stride, x_shared, squares);
  __syncthreads();

  int turn = 0;
  for (int block = static_cast<int>(blockIdx.y); block < matrix.blocks; block += static_cast<int>(gridDim.y)) {
    const StreamPart& part = part_of(block);
    float total[4] = {};
    float partial[4] = {};
    LaneRows rows;
    if constexpr (Piece::kInteger) {
      const float middle = kEncoding == Encoding::kInt4 ? 1032.0f : 1152.0f;
      rows.zero[0] = rows.zero[1] = __float2half2_rn(middle);
    }
    if (!once) {
#pragma unroll
      for (int token = 0; token < kTokens; ++token) squares[token] = 0;
    }
    int group = first_group;
    for (int segment = begin; segment < end; segment += segment_chunks) {
      const int segment_end = min(segment + segment_chunks, end);
      if (!once) {
        __syncthreads();
        stage<kBF16, kTokens>(call, segment * kChunk, (segment_end - segment) * kChunk, stride, x_shared, squares);
        __syncthreads();
      }
      for (; group < segment_end; group += kWarps * kGroup) {
        Piece now[kGroup];
        float2 scales_now[kGroup];
        __half2 lane_scales_now[kGroup];
#pragma unroll
        for (int c = 0; c < kGroup; ++c) {
          now[c] = pieces[c];
          scales_now[c] = scales[c];
          lane_scales_now[c] = lane_scales[c];
        }
        advance();
        if (next.block < matrix.blocks) load(next);
#pragma unroll
        for (int c = 0; c < kGroup; ++c) {
          const int chunk = group + c;
          if (chunk >= end) break;
          if constexpr (Piece::kInteger) {
            if (matrix.zeros) {
              const int column = kScaling == Scaling::kRow ? 0 : scale_column(chunk);
              const int64_t of_block = static_cast<int64_t>(block - part.first_block) * matrix.scale_columns;
              const __half2 zeros = static_cast<const __half2*>(part.zeros)[(of_block + column) * (kBlockRows / 2) + g];
              const __half2 biased = __hadd2(zeros, __float2half2_rn(1024.0f));
              rows.zero[0] = __half2half2(__low2half(biased));
              rows.zero[1] = __half2half2(__high2half(biased));
            }
          }
          if constexpr (kScaling == Scaling::kLanes) {
            rows.scale[0] = __half2half2(__low2half(lane_scales_now[c]));
            rows.scale[1] = __half2half2(__high2half(lane_scales_now[c]));
          }
          uint4 x[2] = {};
          if (g < 2 * kTokens) {
            const auto* from =
                reinterpret_cast<const uint4*>(x_shared + g * stride + (chunk - segment) * kChunk + t * 16);
            x[0] = from[0];
            x[1] = from[1];
          }
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            uint32_t a[4];
            operand<kEncoding>(now[c], i, rows, a);
            if constexpr (kScaling == Scaling::kLanes) {
#pragma unroll
              for (int r = 0; r < 4; ++r) a[r] = bits_of(__hmul2(half2_of(a[r]), rows.scale[r % 2]));
            }
            const uint4& half = x[i / 2];
            multiply_tile<kBF16>(partial, a, i % 2 == 0 ? half.x : half.z, i % 2 == 0 ? half.y : half.w);
          }
          if constexpr (kScaling == Scaling::kChunks) {
            total[0] = fmaf(scales_now[c].x, partial[0], total[0]);
            total[1] = fmaf(scales_now[c].x, partial[1], total[1]);
            total[2] = fmaf(scales_now[c].y, partial[2], total[2]);
            total[3] = fmaf(scales_now[c].y, partial[3], total[3]);
            partial[0] = partial[1] = partial[2] = partial[3] = 0;
          }
        }
      }
    }

    const auto& found = kScaling == Scaling::kChunks ? total : partial;
    auto& of_warps = sums[turn];
    auto& squares_of_warps = square_sums[turn];
    turn ^= 1;
    if (call.source.source == Source::kNormed) {
#pragma unroll
      for (int token = 0; token < kTokens; ++token) {
        const float sum = combine_warp(squares[token], Sum());
        if (lane == 0) squares_of_warps[warp][token] = sum;
      }
    }
    of_warps[warp][2 * t][g] = found[0];
    of_warps[warp][2 * t + 1][g] = found[1];
    of_warps[warp][2 * t][g + 8] = found[2];
    of_warps[warp][2 * t + 1][g + 8] = found[3];
    __syncthreads();
    const int token = static_cast<int>(threadIdx.x / kBlockRows);
    const int row = static_cast<int>(threadIdx.x % kBlockRows);
    const auto column_sum = [&](int column) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += of_warps[w][column][row];
      return sum;
    };
    const auto square_sum = [&](int of_token) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += squares_of_warps[w][of_token];
      return sum;
    };
    float high = 0;
    float low = 0;
    float all_squares = 0;
#if __CUDA_ARCH__ >= 900
    if (ranks > 1) {
      const cg::cluster_group cluster = cg::this_cluster();
      block_sums[threadIdx.x / kBlockRows][row] = column_sum(threadIdx.x / kBlockRows);
      if (threadIdx.x < kTokens) block_squares[threadIdx.x] = square_sum(threadIdx.x);
      cluster.sync();
      if (rank == 0 && token < kTokens) {
        for (int other = 0; other < ranks; ++other) {
          const float* theirs = cluster.map_shared_rank(&block_sums[0][0], static_cast<unsigned>(other));
          high += theirs[2 * token * kBlockRows + row];
          low += theirs[(2 * token + 1) * kBlockRows + row];
          all_squares += cluster.map_shared_rank(block_squares, static_cast<unsigned>(other))[token];
        }
      }
      cluster.sync();
      if (rank > 0) continue;
    }
#endif
    const int n = (block - part.first_block) * static_cast<int>(kBlockRows) + row;
    if (token >= matrix.tokens || token >= kTokens || n >= part.n) continue;
    if (ranks == 1) {
      high = column_sum(2 * token);
      low = column_sum(2 * token + 1);
      all_squares = square_sum(token);
    }
    float sum = (high + low * (1.0f / kLowFactor<kBF16>)) * part.factors[n];
    if (call.source.source == Source::kNormed)
      sum *= rsqrtf(all_squares / static_cast<float>(call.k) + call.source.epsilon) * (1.0f / kNormedUnit);
    if (part.bias != nullptr) sum += part.bias[n];
    const int64_t at = static_cast<int64_t>(token) * part.n + n;
    if (call.residual != nullptr) sum += call.residual[at];
    part.out[at] = sum;
  }
}

template <Encoding kEncoding, Scaling kScaling, int kTokens, bool kLong>
void launch_decode(cudaStream_t stream, DecodeCall call) {
  const auto kernel = decode_kernel<kEncoding, kScaling, kTokens, kLong>;
  const int columns = (call.matrix.chunks + call.ranks - 1) / call.ranks * static_cast<int>(kChunkColumns) + 512;
  call.segment = min(columns, kSegmentWords / kTokens);
  const size_t shared = sizeof(uint16_t) * 2 * kTokens * static_cast<size_t>(call.segment + kPad);
  // Where this fails the launch does too, in every step, and the step says so.
  [[maybe_unused]] static const bool raised =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 96 << 10) == cudaSuccess;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(call.ranks), static_cast<unsigned>(min(call.matrix.blocks, call.slots)));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = static_cast<unsigned>(call.ranks);
  attributes[1].val.clusterDim.y = 1;
  attributes[1].val.clusterDim.z = 1;
  config.attrs = attributes;
  config.numAttrs = call.ranks > 1 ? 2 : 1;
  cudaLaunchKernelEx(&config, kernel, call);
}

template <Encoding kEncoding, Scaling kScaling, int kTokens>
void decode_tokens(cudaStream_t stream, const DecodeCall& call) {
  if (Chunk<kEncoding>::kWords == 1 && call.matrix.chunks / call.ranks < 32)
    launch_decode<kEncoding, kScaling, kTokens, false>(stream, call);
  else
    launch_decode<kEncoding, kScaling, kTokens, true>(stream, call);
}

template <Encoding kEncoding, Scaling kScaling>
void decode_format(cudaStream_t stream, const DecodeCall& call) {
  switch (call.matrix.tokens) {
    case 1:
      return decode_tokens<kEncoding, kScaling, 1>(stream, call);
    case 2:
      return decode_tokens<kEncoding, kScaling, 2>(stream, call);
    default:
      return decode_tokens<kEncoding, kScaling, 4>(stream, call);
  }
}

}  // namespace

int choose_decode_ranks(int blocks, int chunks, int multiprocessors, bool clusters) {
  int ranks = 1;
  while (clusters && ranks < 8 && 4 * ranks * blocks < 7 * multiprocessors && chunks >= 16 * ranks) ranks *= 2;
  return ranks;
}

void decode_linear(cudaStream_t stream, int encoding, int scaling, const DecodeCall& call) {
  with_format(encoding, scaling, [&](auto e, auto s) { decode_format<e.value, s.value>(stream, call); });
}

}  // namespace edgewise::cuda
