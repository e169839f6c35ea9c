// How attention_mma.cu's warps walk over a tile's pages, as attention_tile.cuh has it: straight from memory to
// registers.
#pragma once

#include "backends/cuda/attention_tile.cuh"

namespace edgewise::cuda {

inline constexpr int kPageWarps = 4;  // of 16 tokens of a page each
// So many such groups of warps take pages in turns, or fewer where a block has less shared memory.
constexpr int most_turns(int blocks) { return blocks <= 2 ? 3 : 1; }
constexpr int most_warps(int blocks) { return kPageWarps * most_turns(blocks); }

template <typename T>
__device__ inline void load_eight(const T* from, bool there, uint32_t (&to)[4]) {
  using Word = typename Eight<T>::Word;
  unpack_eight<T>(there ? __ldcg(reinterpret_cast<const Word*>(from)) : Word{}, to);
}

// Which tokens of a page a warp takes, and which pages.
struct Share {
  int turns = blockDim.x / 32 / kPageWarps;
  int token = threadIdx.x / 32 % kPageWarps * 16;
  int turn = threadIdx.x / 32 / kPageWarps;
  // The first one from `page` on. By its number alone: a row's bits must not depend on where other rows begin.
  __device__ int page_from(int page) const { return page + (turn + turns - page % turns) % turns; }
};

// A warp's first two pages on their way to the L2 cache, while queries are made.
template <typename T>
__device__ inline void bring_pages_near(const KvLayer& layer, const AttendCall& call, const AttendTile& tile,
                                        int kv_head) {
  const Share share;
  const int oldest = call.window > 0 ? max(tile.position - call.window + 1, 0) : 0;
  const int first = share.page_from(max(tile.page_begin, oldest / kPageSlots));
  const int bytes = 16 * layer.head_dim * static_cast<int>(sizeof(T));
  for (int p = first; p < min(tile.page_end, first + 2 * share.turns); p += share.turns) {
    const int64_t head =
        static_cast<int64_t>(page_of(call.tiles + blockIdx.x, call.pages, p)) * layer.kv_heads + kv_head;
    const int64_t begin = (head * kPageSlots + share.token) * layer.head_dim * static_cast<int64_t>(sizeof(T));
    for (int line = threadIdx.x % 32 * 128; line < bytes; line += 32 * 128) {
      prefetch_line(static_cast<const char*>(layer.keys) + begin + line);
      prefetch_line(static_cast<const char*>(layer.values) + begin + line);
    }
  }
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
  const Share share;
  const int token = share.token;  // of each page
  for (int p = share.page_from(first_page); p < tile.page_end; p += share.turns) {
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
      float& score = scores[of_two][i % 4];
      score += low_scores[of_two][i % 4] * (1.0f / kLowFactor<kBF16>);
      if constexpr (kScaled) score *= __ldcg(layer.key_scales + head * kPageSlots + token + t * 4 + of_two * 2 + i % 2);
    }
    // Apart, since few models want it and instructions that nobody jumps over are there sooner.
    if (call.softcap > 0) {
#pragma unroll
      for (int i = 0; i < 8; ++i) scores[i / 4][i % 4] = call.softcap * tanhf(scores[i / 4][i % 4] / call.softcap);
    }
    const bool chain = tile.tree_begin == INT_MAX;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int r = i % 4 / 2;
      const int slot = p * kPageSlots + token + t * 4 + i / 4 * 2 + i % 2;
      const bool seen =
          chain ? slot <= rows[r].position && slot >= rows[r].oldest : sees(rows[r], tile.tree_begin, slot);
      float& score = scores[i / 4][i % 4];
      score = seen ? score : -INFINITY;
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
        if constexpr (kScaled)
          pair[j] *= __ldcg(layer.value_scales + head * kPageSlots + token + t * 4 + r / 2 * 2 + j);
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

}  // namespace edgewise::cuda
