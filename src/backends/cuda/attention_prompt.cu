// Attention of prompts on tensor cores (FlashAttention-2, arXiv:2307.08691), for caches of 16 and 8 bits.
//
// A thread block takes a tile: some rows of a sequence and all query heads that share a key head, up to 128 queries,
// which four warps share out. Keys and values of a page come to shared memory while the page before is multiplied.
// Queries and probabilities are rounded to the operands' 16 bits, bf16 for bf16 caches and f16 otherwise, as other
// activations of steps with more than 64 tokens are.
#include <climits>

#include "backends/cuda/attention_kernels.h"
#include "backends/cuda/device_code.cuh"
#include "backends/cuda/prompt_pages.cuh"

namespace edgewise::cuda {
namespace {

constexpr float kLog2E = 1.44269504f;

template <bool kBF16>
__device__ inline uint32_t rounded_pair(float x, float y) {
  if constexpr (kBF16) return bits_of(__floats2bfloat162_rn(x, y));
  return bits_of(__floats2half2_rn(x, y));
}

// A warp's queries and their softmax so far.
template <typename T, int kDim>
struct Rows {
  using S = PromptShape<T, kDim>;
  // Where this lane's rows for ldmatrix lie: of queries, and of a stage's keys and values.
  uint32_t queries, keys, page_values;
  float cap;        // of scores, in powers of two; 0: none
  unsigned reach;   // so many positions a row sees
  int first, last;  // positions of the warp's rows
  // Of the tile: its first row's position, its queries, those above this lane's first one.
  int position, count, above, group;
  float largest[S::kRowTiles][2];
  float sum[S::kRowTiles][2];
  float values[S::kRowTiles][kDim / 8][4];

  // Slots from `begin` on, whose keys and values are in a stage.
  __device__ __forceinline__ void attend(int begin, uint32_t stage) {
    float scores[S::kRowTiles][S::kTokens / 8][4] = {};
    multiply_keys(stage, scores);
    if (cap > 0) {  // cap * tanh(x), where the score is 2 x in powers of two
      for_all(scores, [&](int, int, float& score) { score = cap - __fdividef(2 * cap, 1 + exp2_of(score)); });
    }
    if (begin + S::kTokens - 1 > first || last - begin >= static_cast<int>(reach)) {
      const int column = begin + static_cast<int>(threadIdx.x) % 4 * 2;
      int distances[S::kRowTiles * 2];  // to the lane's first column
#pragma unroll
      for (int i = 0; i < S::kRowTiles * 2; ++i) distances[i] = position_of(above + i * 8) - column;
      for_all(scores, [&](int m, int i, float& score) {
        const int distance = distances[m * 2 + i % 4 / 2] - (i / 4 * 8 + i % 2);
        if (static_cast<unsigned>(distance) >= reach) score = -INFINITY;
      });
    }
    uint32_t probabilities[S::kRowTiles][S::kTokens / 16][4];
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m) weigh(m, scores[m], probabilities[m]);
#pragma unroll
    for (int n = 0; n < kDim / 16; ++n) {
#pragma unroll
      for (int step = 0; step < S::kTokens / 16; ++step) {
        uint32_t v[4];
        load_transposed(v, S::at_step(page_values, n) + stage + step * 16 * S::kRowBytes);
#pragma unroll
        for (int m = 0; m < S::kRowTiles; ++m) {
          multiply_tile<S::kBF16>(values[m][2 * n], probabilities[m][step], v[0], v[1]);
          multiply_tile<S::kBF16>(values[m][2 * n + 1], probabilities[m][step], v[2], v[3]);
        }
      }
    }
  }

  __device__ int position_of(int query) const { return position + min(query, count - 1) / group; }

 private:
  using Scores = float[S::kTokens / 8][4];

  template <typename F>
  __device__ static __forceinline__ void for_all(Scores (&scores)[S::kRowTiles], F f) {
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m) {
#pragma unroll
      for (int i = 0; i < S::kTokens / 2; ++i) f(m, i, scores[m][i / 4][i % 4]);
    }
  }

  __device__ __forceinline__ void multiply_keys(uint32_t stage, Scores (&scores)[S::kRowTiles]) const {
#pragma unroll
    for (int step = 0; step < kDim / 16; ++step) {
      uint32_t q[S::kRowTiles][4];
#pragma unroll
      for (int m = 0; m < S::kRowTiles; ++m) load_matrices(q[m], S::at_step(queries, step) + m * 16 * S::kRowBytes);
#pragma unroll
      for (int n = 0; n < S::kTokens / 16; ++n) {
        uint32_t k[4];
        load_matrices(k, S::at_step(keys, step) + stage + n * 16 * S::kRowBytes);
#pragma unroll
        for (int m = 0; m < S::kRowTiles; ++m) {
          multiply_tile<S::kBF16>(scores[m][2 * n], q[m], k[0], k[1]);
          multiply_tile<S::kBF16>(scores[m][2 * n + 1], q[m], k[2], k[3]);
        }
      }
    }
  }

  // Scores to probabilities, as operands.
  __device__ __forceinline__ void weigh(int m, const Scores& scores, uint32_t (&to)[S::kTokens / 16][4]) {
    float now[2] = {largest[m][0], largest[m][1]};
#pragma unroll
    for (int i = 0; i < S::kTokens / 2; ++i) now[i % 4 / 2] = fmaxf(now[i % 4 / 2], scores[i / 4][i % 4]);
    raise_largest<2>(now, largest[m], sum[m], values[m], exp2_of);
    // A row that has seen nothing yet has nothing to subtract.
    const float base[2] = {now[0] == -INFINITY ? 0.0f : now[0], now[1] == -INFINITY ? 0.0f : now[1]};
#pragma unroll
    for (int i = 0; i < S::kTokens / 4; ++i) {  // pairs
      const int r = i % 2;
      const float x = exp2_of(scores[i / 2][2 * r] - base[r]);
      const float y = exp2_of(scores[i / 2][2 * r + 1] - base[r]);
      sum[m][r] += x + y;
      to[i / 4][i % 4] = rounded_pair<S::kBF16>(x, y);
    }
  }
};

template <typename T, int kDim>
__global__ void __launch_bounds__(kPromptWarps * 32, 2)
    attend_prompt_kernel(const KvLayer layer, const AttendCall call, const PromptTile* tiles) {
  using S = PromptShape<T, kDim>;
  extern __shared__ __align__(128) uint8_t memory[];
  const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(memory));
  const int kv_head = static_cast<int>(blockIdx.x);
  const int group = call.q_heads / layer.kv_heads;
  const int dim = layer.head_dim;
  const int lane = threadIdx.x % 32;
  const int warp_row = static_cast<int>(threadIdx.x / 32) * S::kRowTiles * 16;
  wait_for_inputs();
  const PromptTile tile = tiles[blockIdx.y];
  const int count = tile.rows * group;
  if (dim < kDim) {
    for (int i = threadIdx.x * 16; i < S::kCodes; i += kPromptWarps * 32 * 16) store_word(shared + i, {0, 0, 0, 0});
    __syncthreads();
  }
  const int oldest = call.window > 0 ? max(tile.position - call.window + 1, 0) : 0;
  const int end = (tile.position + tile.rows + S::kTokens - 1) / S::kTokens;
  int number = oldest / S::kTokens;
  PromptLoader<T, kDim> loader(layer, call.pages + tile.page_table, shared);
  loader.copy(number, 0);

  const auto head_of = [&](int query) {
    return (static_cast<int64_t>(tile.first_row + query / group) * call.q_heads + kv_head * group + query % group) *
           dim;
  };
  // exp(x) is 2^(x log2 e); what tanh wants is twice that.
  const float scale = call.scale * kLog2E * (call.softcap > 0 ? 2 / call.softcap : 1.0f);
  const auto scaled = [&](float x) { return S::kBF16 ? x * scale : fminf(fmaxf(x * scale, -65504.0f), 65504.0f); };
#pragma unroll 2
  for (int i = threadIdx.x; i < S::kQueries * S::kWords; i += kPromptWarps * 32) {
    const int query = i / S::kWords;
    const int word = i % S::kWords;
    uint32_t to[4] = {};
    if (query < count && word * 8 < dim) {
      const auto* from = reinterpret_cast<const float4*>(call.q + head_of(query) + word * 8);
      const float4 a = from[0];
      const float4 b = from[1];
      to[0] = rounded_pair<S::kBF16>(scaled(a.x), scaled(a.y));
      to[1] = rounded_pair<S::kBF16>(scaled(a.z), scaled(a.w));
      to[2] = rounded_pair<S::kBF16>(scaled(b.x), scaled(b.y));
      to[3] = rounded_pair<S::kBF16>(scaled(b.z), scaled(b.w));
    }
    store_word(shared + S::place(query, word), to);
  }

  Rows<T, kDim> rows = {};
  rows.queries = shared + S::place(warp_row + lane % 16, lane / 16);
  rows.keys = shared + S::kStage + S::place(lane / 16 * 8 + lane % 8, lane / 8 % 2);
  rows.page_values = shared + S::kStage + S::kBlockBytes + S::place(lane % 16, lane / 16);
  rows.cap = call.softcap * kLog2E;
  rows.reach = call.window > 0 ? call.window : INT_MAX;
  rows.position = tile.position;
  rows.count = count;
  rows.group = group;
  rows.above = warp_row + lane / 4;
  rows.first = rows.position_of(warp_row);
  rows.last = rows.position_of(warp_row + S::kRowTiles * 16 - 1);
#pragma unroll
  for (int i = 0; i < S::kRowTiles * 2; ++i) {
    rows.largest[i / 2][i % 2] = -INFINITY;
  }
  for (int stage = 0; number < end; ++number) {
    wait_stages<0>();
    __syncthreads();  // all have their share here, and nobody reads what is written now
    if constexpr (S::kPacked) {
      loader.unpack();
      __syncthreads();
    }
    const int now = stage;
    stage = (stage + 1) % S::kStages;
    if (number + 1 < end) loader.copy(number + 1, stage);
    if (number * S::kTokens <= rows.last) rows.attend(number * S::kTokens, now * 2 * S::kBlockBytes);
  }

#pragma unroll
  for (int i = 0; i < S::kRowTiles * 2; ++i) {
    float sum = rows.sum[i / 2][i % 2];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const int query = warp_row + i * 8 + lane / 4;
    if (query >= count) continue;
    const float inverse = 1 / sum;
    float* out = call.out + head_of(query) + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      const float(&pair)[4] = rows.values[i / 2][n];
      if (n * 8 < dim)
        *reinterpret_cast<float2*>(out + n * 8) = {pair[i % 2 * 2] * inverse, pair[i % 2 * 2 + 1] * inverse};
    }
  }
}

template <typename T, int kDim>
void attend_dim(cudaStream_t stream, const KvLayer& layer, const AttendCall& call, const PromptTile* tiles, int count) {
  constexpr int kBytes = PromptShape<T, kDim>::kBytes;
  // Where this fails the launch does too, in every step, and the step says so.
  [[maybe_unused]] static const bool raised =
      cudaFuncSetAttribute(attend_prompt_kernel<T, kDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes) ==
      cudaSuccess;
  // Heads of a tile first, as long tiles come first.
  const dim3 grid(static_cast<unsigned>(layer.kv_heads), static_cast<unsigned>(count));
  launch(attend_prompt_kernel<T, kDim>, grid, kPromptWarps * 32, kBytes, stream, layer, call, tiles);
}

template <typename T>
void attend_typed(cudaStream_t stream, const KvLayer& layer, const AttendCall& call, const PromptTile* tiles,
                  int count) {
  if (layer.head_dim <= 64)
    attend_dim<T, 64>(stream, layer, call, tiles, count);
  else if (layer.head_dim <= 96)
    attend_dim<T, 96>(stream, layer, call, tiles, count);
  else if (layer.head_dim <= 128)
    attend_dim<T, 128>(stream, layer, call, tiles, count);
  else
    attend_dim<T, 256>(stream, layer, call, tiles, count);
}

}  // namespace

void attend_prompts(cudaStream_t stream, const KvLayer& layer, const AttendCall& call, const PromptTile* tiles,
                    int count) {
  switch (layer.type) {
    case KvType::kF16:
      return attend_typed<__half>(stream, layer, call, tiles, count);
    case KvType::kInt8:
      return attend_typed<int8_t>(stream, layer, call, tiles, count);
    case KvType::kF8:
      return attend_typed<__nv_fp8_e4m3>(stream, layer, call, tiles, count);
    default:
      return attend_typed<__nv_bfloat16>(stream, layer, call, tiles, count);
  }
}

}  // namespace edgewise::cuda
