// Attention on tensor cores, for caches of 16 and 8 bits: the same tiles as in attention.cu, walked as
// attention_tile.cuh has it.
#include "backends/cuda/attention_join.cuh"
#include "backends/cuda/attention_tile.cuh"

namespace edgewise::cuda {
namespace {

constexpr int kWarps = 4;  // of 16 tokens of a page each

template <typename T>
__device__ inline void load_eight(const T* from, bool there, uint32_t (&to)[4]) {
  using Word = typename Eight<T>::Word;
  unpack_eight<T>(there ? __ldcg(reinterpret_cast<const Word*>(from)) : Word{}, to);
}

// A warp's softmax over its share of a tile's pages, left in shared memory: [warp][query < queries][kBlocks * 64 + 2],
// values, then the largest score, then the sum. kBlocks: head_dim in units of 64 columns, rounded up.
template <typename T, int kBlocks>
__device__ __forceinline__ void attend_pages(const KvLayer& layer, const AttendRule& call, const AttendTile& tile,
                                             int kv_head, const uint4 (*q_high)[32], const uint4 (*q_low)[32],
                                             float* states) {
  constexpr bool kBF16 = Cache<T>::kBF16;
  constexpr bool kScaled = Cache<T>::kScaled;
  constexpr int kSteps = 2 * kBlocks;  // of 32 columns of a key
  const int dim = layer.head_dim;
  const int queries = tile.rows * call.group;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  RowView rows[2];
  int oldest = look_at_rows(call, tile, g, rows);
  // The first page that any row looks at.
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) oldest = min(oldest, __shfl_xor_sync(~0u, oldest, offset));
  const int first_page = max(tile.page_begin, max(oldest, 0) / kPageSlots);

  float largest[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};
  float values[kBlocks * 8][4] = {};
  const int token = warp * 16;  // of each page
  for (int p = first_page; p < tile.page_end; ++p) {
    const int64_t head = static_cast<int64_t>(page_of(call.tile, call.pages, p)) * layer.kv_heads + kv_head;
    const T* keys = static_cast<const T*>(layer.keys) + head * kPageSlots * dim;
    const T* page_values = static_cast<const T*>(layer.values) + head * kPageSlots * dim;
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
      if constexpr (kScaled) score *= layer.key_scales[head * kPageSlots + slot];
      if (call.softcap > 0) score = call.softcap * tanhf(score / call.softcap);
      score = sees(rows[r], tile.tree_begin, p * kPageSlots + slot) ? score : -INFINITY;
      scores[of_two][i % 4] = score;
      now[r] = fmaxf(now[r], score);
    }
    raise_largest(now, largest, sum, values, [](float x) { return expf(x); });
    uint32_t high[4], low[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      float pair[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float score = scores[r / 2][r % 2 * 2 + j];
        pair[j] = score == -INFINITY ? 0.0f : expf(score - largest[r % 2]);
        sum[r % 2] += pair[j];
        if constexpr (kScaled) pair[j] *= layer.value_scales[head * kPageSlots + token + t * 4 + r / 2 * 2 + j];
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

  const int stride = kBlocks * 64 + 2;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
    sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
    if (g + 8 * r >= queries) continue;
    float* state = states + (warp * queries + g + 8 * r) * stride;
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
}

// kBlocks: head_dim in units of 64 columns, rounded up.
template <typename T, int kBlocks>
__global__ void __launch_bounds__(kWarps * 32) attend_mma_kernel(const KvLayer layer, const AttendCall call) {
  constexpr int kSteps = 2 * kBlocks;  // of 32 columns of a key
  wait_for_inputs();
  const AttendTile tile = call.tiles[blockIdx.x];  // on its way while the count is
  if (static_cast<int>(blockIdx.x) >= *call.tile_count) return;
  const int kv_head = static_cast<int>(blockIdx.y);
  const int group = call.q_heads / layer.kv_heads;
  const int dim = layer.head_dim;
  const int queries = tile.rows * group;
  const auto query_row = [&](int query) { return static_cast<int64_t>(tile.first_row + query / group); };
  const auto query_head = [&](int query) { return kv_head * group + query % group; };
  const auto place = [&](int query) { return (query_row(query) * call.q_heads + query_head(query)) * dim; };

  __shared__ uint4 q_high[kSteps * 2][32];
  __shared__ uint4 q_low[kSteps * 2][32];
  extern __shared__ float states[];
  stage_queries<Cache<T>::kBF16, kSteps>(
      q_high, q_low, queries, dim, call.scale, kWarps * 32,
      [&](int query, int column) { return *reinterpret_cast<const float2*>(call.q + place(query) + column); });
  __syncthreads();
  const AttendRule rule{call.softcap, call.window, group, call.positions, call.masks, call.tiles + blockIdx.x,
                        call.pages};
  attend_pages<T, kBlocks>(layer, rule, tile, kv_head, q_high, q_low, states);
  __syncthreads();
  for (int query = threadIdx.x / 32; query < queries; query += kWarps) {
    float* partial = partial_state(call, tile.slot, query_head(query), query / group, dim);
    float* out = call.out + place(query);
    float all = 0;
    const auto rest = [&](float most, float sum) {
      all = sum;
      if (tile.splits == 1 || threadIdx.x % 32 != 0) return;
      partial[dim] = most;
      partial[dim + 1] = sum;
    };
    join_warps<kBlocks, kWarps>(states, queries, query, dim, rest, [&](int column, float value) {
      if (tile.splits > 1)
        partial[column] = value;
      else
        out[column] = value / all;
    });
  }
  if (tile.splits > 1) join_group(call, tile, kv_head, layer.kv_heads, dim);
}

template <typename T, int kBlocks>
void attend_dim(cudaStream_t stream, const KvLayer& layer, const AttendCall& call) {
  const size_t shared = sizeof(float) * kWarps * kTileQueries * (kBlocks * 64 + 2);
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
