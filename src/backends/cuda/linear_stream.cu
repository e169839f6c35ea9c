// Products of experts' few rows: every weight travels once from memory to the registers of a tensor core's operand.
// And products in float32.
//
// A thread block takes 16 rows of the matrix. Its warps share out the columns, a few chunks of 64 at a time, and add up
// in shared memory in a fixed order. A column of the product is computed alike whatever stands beside it, so a
// sequence's result does not depend on its company.
#include "backends/cuda/device_code.cuh"
#include "backends/cuda/kernels.h"
#include "backends/cuda/stream_weights.cuh"

namespace edgewise::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kTileColumns = 8;  // of the second operand

// What a block of threads works on.
struct Work {
  const StreamPart* part = nullptr;
  int block = 0;       // of 16 rows, in the part
  int64_t offset = 0;  // bytes, of its expert's matrix
  int first_pair = 0;  // its rows of the output begin here
  int count = 0;       // tokens
};

__device__ inline Work work_of(const StreamCall& call) {
  int part = 0;
  while (part + 1 < call.part_count && static_cast<int>(blockIdx.x) >= call.parts[part + 1].first_block) ++part;
  Work work;
  work.part = &call.parts[part];
  work.block = static_cast<int>(blockIdx.x) - work.part->first_block;
  work.count = call.tokens;
  if (call.most_experts == 0) return work;
  wait_for_inputs();  // who goes to which expert is an input too
  const int number = static_cast<int>(blockIdx.y);
  work.count = 0;
  if (number >= *call.lists.count) return work;
  work.offset = call.lists.experts[number] * call.stack_bytes;
  work.first_pair = call.lists.begin[number];
  work.count = call.lists.begin[number + 1] - work.first_pair;
  return work;
}

// The row of x that is the `token`th of this work.
__device__ inline int x_row(const StreamCall& call, const Work& work, int token) {
  if (call.most_experts == 0) return token;
  return call.by_pair ? work.first_pair + token : call.lists.tokens[work.first_pair + token];
}

template <typename T>
__device__ inline const T* of_expert(const T* data, const Work& work) {
  return reinterpret_cast<const T*>(reinterpret_cast<const char*>(data) + work.offset);
}

template <Encoding kEncoding, Scaling kScaling, int kTiles>
__global__ void __launch_bounds__(kWarps * 32) stream_kernel(const __grid_constant__ StreamCall call) {
  constexpr bool kBF16 = kEncoding == Encoding::kBF16;
  constexpr int kCopies = kBF16 ? 2 : 1;
  using Piece = Chunk<kEncoding>;
  constexpr int kLoads = 8 / Piece::kWords;  // chunks in flight in a warp, 128 bytes a lane
  __shared__ float sums[kWarps][kTiles * kTileColumns][kBlockRows + 1];
  const Work work = work_of(call);
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const uint4* weights = of_expert(work.part->weights, work) +
                         static_cast<int64_t>(work.block) * call.chunks * (32 * Piece::kWords) + lane;
  const auto* scale_data = of_expert(static_cast<const char*>(work.part->scales), work);
  const auto* zero_data = reinterpret_cast<const __half2*>(of_expert(static_cast<const char*>(work.part->zeros), work));
  const int64_t of_block = static_cast<int64_t>(work.block) * call.scale_columns;

  Piece pieces[kLoads];
  const auto load = [&](int first) {
#pragma unroll
    for (int c = 0; c < kLoads; ++c) {
#pragma unroll
      for (int w = 0; w < Piece::kWords; ++w) {
        const uint4* at = weights + (static_cast<int64_t>(first + c) * Piece::kWords + w) * 32;
        pieces[c].words[w] = first + c < call.chunks ? __ldcs(at) : make_uint4(0, 0, 0, 0);
      }
    }
  };
  LaneRows rows;
  if constexpr (Piece::kInteger) {
    const float middle = kEncoding == Encoding::kInt4 ? 1032.0f : 1152.0f;
    rows.zero[0] = rows.zero[1] = __float2half2_rn(middle);
  }
  for (int token = 0; token < work.count; token += call.tokens) {
    load(warp * kLoads);
    wait_for_inputs();
    const int columns = min(call.tokens, work.count - token) * kCopies;
    int64_t x_at[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int column = tile * kTileColumns + g;
      x_at[tile] =
          column >= columns
              ? -1
              : (static_cast<int64_t>(x_row(call, work, token + column / kCopies)) * kCopies + column % kCopies) *
                        call.chunks * kChunkColumns +
                    t * 8;
    }
    float total[kTiles][4] = {};
    float partial[kTiles][4] = {};
    for (int first = warp * kLoads; first < call.chunks; first += kWarps * kLoads) {
      Piece now[kLoads];
#pragma unroll
      for (int c = 0; c < kLoads; ++c) now[c] = pieces[c];
      if (first + kWarps * kLoads < call.chunks) load(first + kWarps * kLoads);
#pragma unroll
      for (int c = 0; c < kLoads; ++c) {
        const int chunk = first + c;
        if (chunk >= call.chunks) break;
        // Scales and zeros of this chunk, or of this lane's columns of it.
        const int column = static_cast<int>(chunk * kChunkColumns) + (kScaling == Scaling::kLanes ? t * 16 : 0);
        const int scale_column = kScaling == Scaling::kRow ? 0 : min(column / call.block, call.scale_columns - 1);
        const int64_t at = (of_block + scale_column) * (kBlockRows / 2) + g;
        if constexpr (Piece::kInteger) {
          if (call.zeros) {
            const __half2 biased = __hadd2(zero_data[at], __float2half2_rn(1024.0f));
            rows.zero[0] = __half2half2(__low2half(biased));
            rows.zero[1] = __half2half2(__high2half(biased));
          }
        }
        if constexpr (kScaling == Scaling::kLanes) {
          const __half2 scales = reinterpret_cast<const __half2*>(scale_data)[at];
          rows.scale[0] = __half2half2(__low2half(scales));
          rows.scale[1] = __half2half2(__high2half(scales));
        }
        uint4 x[kTiles][2];
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          const auto* from = reinterpret_cast<const uint4*>(call.x + x_at[tile] + chunk * kChunkColumns);
          x[tile][0] = x_at[tile] >= 0 ? from[0] : make_uint4(0, 0, 0, 0);
          x[tile][1] = x_at[tile] >= 0 ? from[4] : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          uint32_t a[4];
          operand<kEncoding>(now[c], i, rows, a);
          if constexpr (kScaling == Scaling::kLanes) {
#pragma unroll
            for (int r = 0; r < 4; ++r) a[r] = bits_of(__hmul2(half2_of(a[r]), rows.scale[r % 2]));
          }
#pragma unroll
          for (int tile = 0; tile < kTiles; ++tile) {
            const uint4& half = x[tile][i / 2];
            multiply_tile<kBF16>(partial[tile], a, i % 2 == 0 ? half.x : half.z, i % 2 == 0 ? half.y : half.w);
          }
        }
        if constexpr (kScaling == Scaling::kChunks) {
          const auto [low, high] = reinterpret_cast<const float2*>(scale_data)[at];
#pragma unroll
          for (int tile = 0; tile < kTiles; ++tile) {
            total[tile][0] += low * partial[tile][0];
            total[tile][1] += low * partial[tile][1];
            total[tile][2] += high * partial[tile][2];
            total[tile][3] += high * partial[tile][3];
            partial[tile][0] = partial[tile][1] = partial[tile][2] = partial[tile][3] = 0;
          }
        }
      }
    }

    const auto& found = kScaling == Scaling::kChunks ? total : partial;
    __syncthreads();  // sums may still be read for the tokens before
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int column = tile * kTileColumns + 2 * t;
      sums[warp][column][g] = found[tile][0];
      sums[warp][column + 1][g] = found[tile][1];
      sums[warp][column][g + 8] = found[tile][2];
      sums[warp][column + 1][g + 8] = found[tile][3];
    }
    __syncthreads();
    const float* factors = of_expert(work.part->factors, work);
    for (int i = threadIdx.x; i < columns / kCopies * kBlockRows; i += kWarps * 32) {
      const int local = i / kBlockRows;
      const int row = i % kBlockRows;
      const int n = work.block * static_cast<int>(kBlockRows) + row;
      if (n >= work.part->n) continue;
      float sum = 0;
#pragma unroll
      for (int copy = 0; copy < kCopies; ++copy) {
#pragma unroll
        for (int w = 0; w < kWarps; ++w) sum += sums[w][local * kCopies + copy][row];
      }
      sum *= factors[n] * call.x_scale[x_row(call, work, token + local)];
      if (work.part->bias != nullptr) sum += work.part->bias[n];
      work.part->out[static_cast<int64_t>(work.first_pair + token + local) * work.part->n + n] = sum;
    }
  }
}

template <Encoding kEncoding, Scaling kScaling>
void stream_format(cudaStream_t stream, const StreamCall& call) {
  const int columns = call.tokens * (kEncoding == Encoding::kBF16 ? 2 : 1);
  const dim3 grid(static_cast<unsigned>(call.blocks), static_cast<unsigned>(max(call.most_experts, 1)));
  constexpr int kThreads = kWarps * 32;
  if (columns <= 8)
    launch(stream_kernel<kEncoding, kScaling, 1>, grid, kThreads, 0, stream, call);
  else if (columns <= 16)
    launch(stream_kernel<kEncoding, kScaling, 2>, grid, kThreads, 0, stream, call);
  else if (columns <= 32)
    launch(stream_kernel<kEncoding, kScaling, 4>, grid, kThreads, 0, stream, call);
  else
    launch(stream_kernel<kEncoding, kScaling, 8>, grid, kThreads, 0, stream, call);
}

// A warp a row of the matrix, four tokens at a time.
__global__ void float_kernel(const __grid_constant__ StreamCall call, const float* x, int k) {
  wait_for_inputs();
  const Work work = work_of(call);
  constexpr int kTokens = 4;
  const int lane = threadIdx.x % 32;
  for (int row = threadIdx.x / 32; row < kBlockRows; row += kWarps) {
    const int n = work.block * static_cast<int>(kBlockRows) + row;
    if (n >= work.part->n) return;
    const float* weights = reinterpret_cast<const float*>(of_expert(work.part->weights, work)) +
                           static_cast<int64_t>(n) * call.chunks * kChunkColumns;
    const float factor = of_expert(work.part->factors, work)[n];
    const float bias = work.part->bias != nullptr ? work.part->bias[n] : 0.0f;
    for (int first = 0; first < work.count; first += kTokens) {
      float sum[kTokens] = {};
      const int count = min(kTokens, work.count - first);
      const float* from[kTokens];
      for (int j = 0; j < kTokens; ++j)
        from[j] = x + static_cast<int64_t>(x_row(call, work, min(first + j, work.count - 1))) * k;
      for (int i = lane; i < k; i += 32) {
#pragma unroll
        for (int j = 0; j < kTokens; ++j) sum[j] = fmaf(weights[i], from[j][i], sum[j]);
      }
#pragma unroll
      for (int j = 0; j < kTokens; ++j) {
        const float all = combine_warp(sum[j], Sum());
        if (j < count && lane == 0)
          work.part->out[static_cast<int64_t>(work.first_pair + first + j) * work.part->n + n] = all * factor + bias;
      }
    }
  }
}

}  // namespace

void stream_linear(cudaStream_t stream, int encoding, int scaling, const StreamCall& call) {
  with_format(encoding, scaling, [&](auto e, auto s) { stream_format<e.value, s.value>(stream, call); });
}

void float_linear(cudaStream_t stream, const StreamCall& call, const float* x, int k) {
  const dim3 grid(static_cast<unsigned>(call.blocks), static_cast<unsigned>(max(call.most_experts, 1)));
  launch(float_kernel, grid, kWarps * 32, 0, stream, call, x, k);
}

}  // namespace edgewise::cuda
