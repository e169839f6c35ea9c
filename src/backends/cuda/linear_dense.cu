// What stands before and behind a product of many rows by a library: weights as rows of halves, and what rows of the
// result are multiplied by.
#include "backends/cuda/device_code.cuh"
#include "backends/cuda/kernels.h"
#include "backends/cuda/stream_weights.cuh"

namespace edgewise::cuda {
namespace {

constexpr int kWarps = 8;

// A warp a chunk: each lane has 16 neighbouring columns of two rows.
template <Encoding kEncoding, Scaling kScaling>
__global__ void __launch_bounds__(kWarps * 32) unpack_kernel(const __grid_constant__ UnpackCall call) {
  using Piece = Chunk<kEncoding>;
  const StreamCall& matrix = call.matrix;
  const StreamPart& part = matrix.parts[0];
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int chunk = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x / 32);
  const int64_t block = call.first_block + static_cast<int>(blockIdx.y);
  if (chunk >= matrix.chunks) return;
  Piece piece;
#pragma unroll
  for (int w = 0; w < Piece::kWords; ++w)
    piece.words[w] = __ldcs(part.weights + ((block * matrix.chunks + chunk) * Piece::kWords + w) * 32 + lane);
  const int column = chunk * static_cast<int>(kChunkColumns) + t * 16;
  const int scale_column = kScaling == Scaling::kRow ? 0 : min(column / matrix.block, matrix.scale_columns - 1);
  const int64_t at = (block * matrix.scale_columns + scale_column) * (kBlockRows / 2) + g;
  LaneRows rows;
  if constexpr (Piece::kInteger) {
    const float middle = kEncoding == Encoding::kInt4 ? 1032.0f : 1152.0f;
    rows.zero[0] = rows.zero[1] = __float2half2_rn(middle);
    if (matrix.zeros) {
      const __half2 biased = __hadd2(static_cast<const __half2*>(part.zeros)[at], __float2half2_rn(1024.0f));
      rows.zero[0] = __half2half2(__low2half(biased));
      rows.zero[1] = __half2half2(__high2half(biased));
    }
  }
  float factors[2] = {1, 1};
  if constexpr (Piece::kWords < 4) {
    if (!call.codes) {
      const int row = static_cast<int>(block * kBlockRows) + g;
      factors[0] = part.factors[row] * call.factor;
      factors[1] = part.factors[row + 8] * call.factor;
      if constexpr (kScaling == Scaling::kChunks) {
        const float2 scales = static_cast<const float2*>(part.scales)[at];
        factors[0] *= scales.x;
        factors[1] *= scales.y;
      }
      if constexpr (kScaling == Scaling::kLanes) {
        const float2 scales = __half22float2(static_cast<const __half2*>(part.scales)[at]);
        factors[0] *= scales.x;
        factors[1] *= scales.y;
      }
    }
  }
  uint32_t out[2][8];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    uint32_t a[4];
    operand<kEncoding>(piece, i, rows, a);
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      if constexpr (Piece::kWords < 4) {
        const float2 codes = __half22float2(half2_of(a[r]));
        a[r] = bits_of(__floats2half2_rn(codes.x * factors[r % 2], codes.y * factors[r % 2]));
      }
      out[r % 2][2 * i + r / 2] = a[r];
    }
  }
  wait_for_inputs();  // somebody may still read what was there before
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int64_t row = static_cast<int64_t>(blockIdx.y) * kBlockRows + g + 8 * r;
    auto* to = reinterpret_cast<uint4*>(call.to + (row * matrix.chunks + chunk) * kChunkColumns) + t;
    to[0] = make_uint4(out[r][0], out[r][1], out[r][2], out[r][3]);
    to[4] = make_uint4(out[r][4], out[r][5], out[r][6], out[r][7]);
  }
}

__global__ void finish_kernel(float* out, int n, const float* x_scale, const float* factors, const float* bias) {
  wait_for_inputs();
  const float scale = x_scale[blockIdx.x];
  if (scale == 1 && factors == nullptr && bias == nullptr) return;
  float* row = out + static_cast<int64_t>(blockIdx.x) * n;
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    const float factor = factors != nullptr ? factors[i] * scale : scale;
    row[i] = row[i] * factor + (bias != nullptr ? bias[i] : 0.0f);
  }
}

}  // namespace

void unpack_weights(cudaStream_t stream, int encoding, int scaling, const UnpackCall& call) {
  const dim3 grid(static_cast<unsigned>((call.matrix.chunks + kWarps - 1) / kWarps),
                  static_cast<unsigned>(call.blocks));
  with_format(encoding, scaling,
              [&](auto e, auto s) { launch(unpack_kernel<e.value, s.value>, grid, kWarps * 32, 0, stream, call); });
}

void finish_rows(cudaStream_t stream, float* out, int rows, int n, const float* x_scale, const float* factors,
                 const float* bias) {
  launch(finish_kernel, dim3(static_cast<unsigned>(rows)), 256, 0, stream, out, n, x_scale, factors, bias);
}

}  // namespace edgewise::cuda
