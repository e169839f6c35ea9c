// Attention on tensor cores, for caches of 16 and 8 bits: the same tiles as in attention.cu.
//
// A tile's queries are 16 rows of an operand. Its four warps take 16 tokens each of one page after another, straight
// from memory to registers: the order in which a product adds up is free, so lanes take whole 16-byte words of keys and
// values and the operands' columns are numbered to suit. In the end the warps' softmax states are joined.
#include <climits>

#include "backends/cuda/attention_join.cuh"
#include "backends/cuda/device_code.cuh"
#include "backends/cuda/kernels.h"
#include "backends/cuda/mma.cuh"

namespace edgewise::cuda {
namespace {

constexpr int kPage = 64;
constexpr int kWarps = 4;
constexpr int kQueries = 16;

template <typename T>
struct Cache {
  static constexpr bool kBF16 = sizeof(T) == 2 && !__is_same(T, __half);  // operands' type; f16 for 8-bit caches
  static constexpr bool kScaled = sizeof(T) == 1;
};

// Eight neighbours as four operand words.
__device__ inline void load_eight(const __half* from, bool there, uint32_t (&to)[4]) {
  const uint4 word = there ? __ldg(reinterpret_cast<const uint4*>(from)) : make_uint4(0, 0, 0, 0);
  to[0] = word.x, to[1] = word.y, to[2] = word.z, to[3] = word.w;
}
__device__ inline void load_eight(const __nv_bfloat16* from, bool there, uint32_t (&to)[4]) {
  load_eight(reinterpret_cast<const __half*>(from), there, to);
}
__device__ inline void load_eight(const int8_t* from, bool there, uint32_t (&to)[4]) {
  uint2 word = there ? __ldg(reinterpret_cast<const uint2*>(from)) : make_uint2(0, 0);
  word.x ^= 0x80808080u;  // unsigned, 128 in the middle
  word.y ^= 0x80808080u;
  const __half2 middle = __float2half2_rn(1152.0f);
  to[0] = bits_of(__hsub2(half2_of(__byte_perm(word.x, 0x64646464u, 0x4140)), middle));
  to[1] = bits_of(__hsub2(half2_of(__byte_perm(word.x, 0x64646464u, 0x4342)), middle));
  to[2] = bits_of(__hsub2(half2_of(__byte_perm(word.y, 0x64646464u, 0x4140)), middle));
  to[3] = bits_of(__hsub2(half2_of(__byte_perm(word.y, 0x64646464u, 0x4342)), middle));
}
__device__ inline void load_eight(const __nv_fp8_e4m3* from, bool there, uint32_t (&to)[4]) {
  const uint2 word = there ? __ldg(reinterpret_cast<const uint2*>(from)) : make_uint2(0, 0);
  const __half2 factor = __float2half2_rn(256.0f);  // the exponents' biases differ by 8
  const auto expand = [&](uint32_t bytes) {         // each at the top of its half
    return bits_of(__hmul2(half2_of(and_or(bytes, 0x80008000u, (bytes & 0x7f007f00u) >> 1)), factor));
  };
  to[0] = expand(__byte_perm(word.x, 0, 0x1404));
  to[1] = expand(__byte_perm(word.x, 0, 0x3424));
  to[2] = expand(__byte_perm(word.y, 0, 0x1404));
  to[3] = expand(__byte_perm(word.y, 0, 0x3424));
}

// What a row sees.
struct RowView {
  int position = 0;
  int oldest = 0;  // position; older ones are out of the window
  uint64_t mask = 0;
};

__device__ inline bool sees(const RowView& row, int tree_begin, int slot) {
  int position = slot;
  if (slot >= tree_begin) {
    const int bit = slot - tree_begin;
    if (bit >= 64 || (row.mask >> bit & 1) == 0) return false;
    position = tree_begin + __popcll(row.mask & ((uint64_t{1} << bit) - 1));
  }
  return position <= row.position && position >= row.oldest;
}

// kBlocks: head_dim in units of 64 columns, rounded up.
template <typename T, int kBlocks>
__global__ void __launch_bounds__(kWarps * 32) attend_mma_kernel(const KvLayer layer, const AttendCall call) {
  constexpr bool kBF16 = Cache<T>::kBF16;
  constexpr bool kScaled = Cache<T>::kScaled;
  constexpr int kSteps = 2 * kBlocks;  // of 32 columns of a key
  wait_for_inputs();
  let_next_start();
  const AttendTile tile = call.tiles[blockIdx.x];  // on its way while the count is
  if (static_cast<int>(blockIdx.x) >= *call.tile_count) return;
  const int kv_head = static_cast<int>(blockIdx.y);
  const int group = call.q_heads / layer.kv_heads;
  const int dim = layer.head_dim;
  const int queries = tile.rows * group;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const auto query_row = [&](int query) { return static_cast<int64_t>(tile.first_row + query / group); };
  const auto query_head = [&](int query) { return kv_head * group + query % group; };

  // Operands of the queries, by step of 32 columns and its halves; first what is high, then what is low.
  __shared__ uint4 q_high[kSteps * 2][32];
  __shared__ uint4 q_low[kSteps * 2][32];
  for (int i = threadIdx.x; i < kSteps * 2 * 32; i += kWarps * 32) {
    const int step = i / 64;
    const int half = i / 32 % 2;
    const int of_lane = i % 32;
    uint32_t high[4], low[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {  // registers: rows g and g + 8, then further columns
      const int query = of_lane / 4 + r % 2 * 8;
      const int column = step * 32 + of_lane % 4 * 8 + half * 4 + r / 2 * 2;
      float2 value = {0, 0};
      if (query < queries && column < dim)
        value = *reinterpret_cast<const float2*>(call.q + (query_row(query) * call.q_heads + query_head(query)) * dim +
                                                 column);
      split_pair<kBF16>(value.x * call.scale, value.y * call.scale, high[r], low[r]);
    }
    q_high[step * 2 + half][of_lane] = make_uint4(high[0], high[1], high[2], high[3]);
    q_low[step * 2 + half][of_lane] = make_uint4(low[0], low[1], low[2], low[3]);
  }
  RowView rows[2];
  int oldest = INT_MAX;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int query = g + 8 * r;
    const int64_t row = query < queries ? query_row(query) : tile.first_row;
    const int position =
        tile.tree_begin == INT_MAX ? tile.position + static_cast<int>(row) - tile.first_row : call.positions[row];
    rows[r].position = query < queries ? position : -1;
    rows[r].oldest = call.window > 0 ? position - call.window + 1 : 0;
    rows[r].mask = tile.tree_begin == INT_MAX ? 0 : call.masks[row];
    oldest = min(oldest, rows[r].oldest);
  }
  // The first page that any row looks at.
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) oldest = min(oldest, __shfl_xor_sync(~0u, oldest, offset));
  const int first_page = max(tile.page_begin, max(oldest, 0) / kPage);
  __syncthreads();

  float largest[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};
  float values[kBlocks * 8][4] = {};
  const int token = warp * 16;  // of each page
  for (int p = first_page; p < tile.page_end; ++p) {
    const int64_t head = static_cast<int64_t>(page_of(call, call.tiles + blockIdx.x, p)) * layer.kv_heads + kv_head;
    const T* keys = static_cast<const T*>(layer.keys) + head * kPage * dim;
    const T* page_values = static_cast<const T*>(layer.values) + head * kPage * dim;
    // All loads first, so that they travel together.
    uint32_t v[kBlocks][4][4];  // four tokens of eight neighbouring columns
    uint32_t k[kSteps][2][4];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int column = step * 32 + t * 8;
#pragma unroll
      for (int i = 0; i < 2; ++i)
        load_eight(keys + (token + g / 2 * 4 + g % 2 + i * 2) * dim + column, column < dim, k[step][i]);
    }
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const int column = block * 64 + g * 8;
#pragma unroll
      for (int j = 0; j < 4; ++j)
        load_eight(page_values + (token + t * 4 + j) * dim + column, column < dim, v[block][j]);
    }
    // Column c of the two tiles of scores is token c / 2 * 4 + c % 2, and that + 2: where the other product wants it.
    float scores[2][4] = {};
    float low_scores[2][4] = {};
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int tile_of_two = 0; tile_of_two < 2; ++tile_of_two) {
        const uint32_t(&key)[4] = k[step][tile_of_two];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const uint4 high = q_high[step * 2 + half][lane];
          const uint4 low = q_low[step * 2 + half][lane];
          const uint32_t a[4] = {high.x, high.y, high.z, high.w};
          const uint32_t b[4] = {low.x, low.y, low.z, low.w};
          multiply_tile<kBF16>(scores[tile_of_two], a, key[2 * half], key[2 * half + 1]);
          multiply_tile<kBF16>(low_scores[tile_of_two], b, key[2 * half], key[2 * half + 1]);
        }
      }
    }
    float now[2] = {largest[0], largest[1]};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int of_two = i / 4;
      const int r = i % 4 / 2;
      const int slot = token + t * 4 + of_two * 2 + i % 2;
      float score = scores[of_two][i % 4] + low_scores[of_two][i % 4] * (1.0f / kLowFactor<kBF16>);
      if constexpr (kScaled) score *= layer.key_scales[head * kPage + slot];
      if (call.softcap > 0) score = call.softcap * tanhf(score / call.softcap);
      score = sees(rows[r], tile.tree_begin, p * kPage + slot) ? score : -INFINITY;
      scores[of_two][i % 4] = score;
      now[r] = fmaxf(now[r], score);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      now[r] = fmaxf(now[r], __shfl_xor_sync(~0u, now[r], 1));
      now[r] = fmaxf(now[r], __shfl_xor_sync(~0u, now[r], 2));
      const float shrink = now[r] == -INFINITY ? 1.0f : expf(largest[r] - now[r]);
      largest[r] = now[r];
      sum[r] *= shrink;
#pragma unroll
      for (int tile_of_values = 0; tile_of_values < kBlocks * 8; ++tile_of_values) {
        values[tile_of_values][2 * r] *= shrink;
        values[tile_of_values][2 * r + 1] *= shrink;
      }
    }
    uint32_t high[4], low[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      float pair[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float score = scores[r / 2][r % 2 * 2 + j];
        pair[j] = score == -INFINITY ? 0.0f : expf(score - largest[r % 2]);
        sum[r % 2] += pair[j];
        if constexpr (kScaled) pair[j] *= layer.value_scales[head * kPage + token + t * 4 + r / 2 * 2 + j];
      }
      split_pair<kBF16>(pair[0], pair[1], high[r], low[r]);
    }
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      // Joined two by two. Column g of tile i is column g * 8 + i.
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const uint32_t select = i % 2 == 0 ? 0x5410 : 0x7632;
        const uint32_t b0 = __byte_perm(v[block][0][i / 2], v[block][1][i / 2], select);
        const uint32_t b1 = __byte_perm(v[block][2][i / 2], v[block][3][i / 2], select);
        float low_values[4] = {};
        multiply_tile<kBF16>(values[block * 8 + i], high, b0, b1);
        multiply_tile<kBF16>(low_values, low, b0, b1);
#pragma unroll
        for (int j = 0; j < 4; ++j) values[block * 8 + i][j] += low_values[j] * (1.0f / kLowFactor<kBF16>);
      }
    }
  }

  // Joins the warps' states: [warp][query][dim + 2].
  extern __shared__ float states[];
  const int stride = kBlocks * 64 + 2;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
    sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
    float* state = states + (warp * kQueries + g + 8 * r) * stride;
    if (t == 0) {
      state[kBlocks * 64] = largest[r];
      state[kBlocks * 64 + 1] = sum[r];
    }
#pragma unroll
    for (int i = 0; i < kBlocks * 8; ++i) {
      // Columns 2t and 2t + 1 of tile i.
      state[i / 8 * 64 + 2 * t * 8 + i % 8] = values[i][2 * r];
      state[i / 8 * 64 + (2 * t + 1) * 8 + i % 8] = values[i][2 * r + 1];
    }
  }
  __syncthreads();
  for (int query = warp; query < queries; query += kWarps) {
    float most = -INFINITY;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) most = fmaxf(most, states[(w * kQueries + query) * stride + kBlocks * 64]);
    float factors[kWarps];
    float all = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float* state = states + (w * kQueries + query) * stride;
      factors[w] = most == -INFINITY ? 0.0f : expf(state[kBlocks * 64] - most);
      all += state[kBlocks * 64 + 1] * factors[w];
    }
    float* partial = partial_state(call, tile.slot, query_head(query), query / group, dim);
    float* out = call.out + (query_row(query) * call.q_heads + query_head(query)) * dim;
    for (int column = lane; column < dim; column += 32) {
      float value = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) value += states[(w * kQueries + query) * stride + column] * factors[w];
      if (tile.splits > 1)
        partial[column] = value;
      else
        out[column] = value / all;
    }
    if (tile.splits > 1 && lane == 0) {
      partial[dim] = most;
      partial[dim + 1] = all;
    }
  }
  if (tile.splits > 1) join_group(call, tile, kv_head, layer.kv_heads, dim);
}

template <typename T, int kBlocks>
void attend_dim(cudaStream_t stream, const KvLayer& layer, const AttendCall& call) {
  const size_t shared = sizeof(float) * kWarps * kQueries * (kBlocks * 64 + 2);
  // Where this fails the launch does too, in every step, and the step says so.
  [[maybe_unused]] static const bool raised =
      cudaFuncSetAttribute(attend_mma_kernel<T, kBlocks>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(shared)) == cudaSuccess;
  const dim3 grid(static_cast<unsigned>(call.most_tiles), static_cast<unsigned>(layer.kv_heads));
  launch(attend_mma_kernel<T, kBlocks>, grid, kWarps * 32, shared, stream, layer, call);
}

template <typename T>
void attend_typed(cudaStream_t stream, const KvLayer& layer, const AttendCall& call) {
  if (layer.head_dim <= 64)
    attend_dim<T, 1>(stream, layer, call);
  else if (layer.head_dim <= 128)
    attend_dim<T, 2>(stream, layer, call);
  else
    attend_dim<T, 4>(stream, layer, call);
}

}  // namespace

bool attends_on_tensor_cores(const KvLayer& layer) { return layer.type != KvType::kF32 && layer.head_dim % 8 == 0; }

void attend_mma(cudaStream_t stream, const KvLayer& layer, const AttendCall& call) {
  switch (layer.type) {
    case KvType::kF16:
      return attend_typed<__half>(stream, layer, call);
    case KvType::kInt8:
      return attend_typed<int8_t>(stream, layer, call);
    case KvType::kF8:
      return attend_typed<__nv_fp8_e4m3>(stream, layer, call);
    default:
      return attend_typed<__nv_bfloat16>(stream, layer, call);
  }
}

}  // namespace edgewise::cuda
