// A tile of attention on tensor cores, as all kernels that attend have it: queries as operands, the walk over pages,
// and the end, where warps join what they found.
//
// A tile's queries are 16 rows of an operand. Warps take 16 tokens each of one page after another, straight from memory
// to registers: the order in which a product adds up is free, so lanes take whole 16-byte words of keys and values and
// the operands' columns are numbered to suit.
#pragma once

#include <climits>

#include "backends/cuda/attention_head.cuh"
#include "backends/cuda/attention_kernels.h"
#include "backends/cuda/device_code.cuh"
#include "backends/cuda/mma.cuh"

namespace edgewise::cuda {

inline constexpr int kTileQueries = 16;
// Lanes have scores and values of two queries, g and g + 8. Where a tile has no more than 8, the second may be left
// out, with the same bits. `blocks`: head_dim in units of 64 columns, rounded up; larger heads want the registers.
constexpr int halves_of(int blocks, int queries) { return blocks <= 2 && queries <= kTileQueries / 2 ? 1 : 2; }

// `tile` in shared memory: registers have no order.
__device__ inline int page_of(const AttendTile& tile, const int32_t* pages, int number) {
  const int index = number - tile.page_begin;
  return index < AttendTile::kPagesHere ? tile.pages[index] : pages[tile.page_table + number];
}

template <typename T>
struct Cache {
  static constexpr bool kBF16 = sizeof(T) == 2 && !__is_same(T, __half);  // operands' type; f16 for 8-bit caches
  static constexpr bool kScaled = sizeof(T) == 1;
};

// Eight neighbours of the cache as they are loaded, and as four operand words.
template <typename T>
struct Eight {
  using Word = uint4;
};
template <>
struct Eight<int8_t> {
  using Word = uint2;
};
template <>
struct Eight<__nv_fp8_e4m3> {
  using Word = uint2;
};

template <typename T>
__device__ inline void unpack_eight(typename Eight<T>::Word word, uint32_t (&to)[4]) {
  to[0] = word.x, to[1] = word.y, to[2] = word.z, to[3] = word.w;
}
template <>
__device__ inline void unpack_eight<int8_t>(uint2 word, uint32_t (&to)[4]) {
  word.x ^= 0x80808080u;  // unsigned, 128 in the middle
  word.y ^= 0x80808080u;
  const __half2 middle = __float2half2_rn(1152.0f);
  to[0] = bits_of(__hsub2(half2_of(__byte_perm(word.x, 0x64646464u, 0x4140)), middle));
  to[1] = bits_of(__hsub2(half2_of(__byte_perm(word.x, 0x64646464u, 0x4342)), middle));
  to[2] = bits_of(__hsub2(half2_of(__byte_perm(word.y, 0x64646464u, 0x4140)), middle));
  to[3] = bits_of(__hsub2(half2_of(__byte_perm(word.y, 0x64646464u, 0x4342)), middle));
}
template <>
__device__ inline void unpack_eight<__nv_fp8_e4m3>(uint2 word, uint32_t (&to)[4]) {
  to[0] = halves_of_f8(word.x, false);
  to[1] = halves_of_f8(word.x, true);
  to[2] = halves_of_f8(word.y, false);
  to[3] = halves_of_f8(word.y, true);
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

// The operands of a tile's queries, by step of 32 columns and its halves; first what is high, then what is low. Where
// lanes have one query each (halves_of()), its low part takes the other one's place, and there is no second operand. By
// so many threads; `at(query, column)` gives two neighbours.
template <bool kBF16, int kSteps, typename At>
__device__ inline void stage_queries(uint4 (*q_high)[32], uint4 (*q_low)[32], int queries, int dim, float scale,
                                     int threads, int halves, At at) {
  for (int i = threadIdx.x; i < kSteps * 2 * 32; i += threads) {
    const int step = i / 64;
    const int half = i / 32 % 2;
    const int of_lane = i % 32;
    uint32_t high[4], low[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {  // registers: rows g and g + 8, then further columns
      const int query = of_lane / 4 + r % 2 * 8;
      const int column = step * 32 + of_lane % 4 * 8 + half * 4 + r / 2 * 2;
      float2 value = {0, 0};
      if (query < queries && column < dim) value = at(query, column);
      split_pair<kBF16>(value.x * scale, value.y * scale, high[r], low[r]);
    }
    const bool both = halves == 2;
    q_high[step * 2 + half][of_lane] = make_uint4(high[0], both ? high[1] : low[0], high[2], both ? high[3] : low[2]);
    if (both) q_low[step * 2 + half][of_lane] = make_uint4(low[0], low[1], low[2], low[3]);
  }
}

// What an operator's tiles have in common.
struct AttendRule {
  float softcap = 0;
  int window = 0;
  int group = 1;  // query heads a key head
  const int32_t* positions = nullptr;
  const uint64_t* masks = nullptr;  // [N]
  const int32_t* pages = nullptr;   // page tables
};

// What a query of the tile sees; those that a tile does not have see nothing.
__device__ inline RowView view_of(const AttendRule& rule, const AttendTile& tile, int query) {
  const bool there = query < tile.rows * rule.group;
  const int row = tile.first_row + (there ? Divisor(rule.group).quotient(query) : 0);
  const bool chain = tile.tree_begin == INT_MAX;
  const int position = chain ? tile.position + row - tile.first_row : rule.positions[row];
  return {there ? position : -1, rule.window > 0 ? position - rule.window + 1 : 0, chain ? 0 : rule.masks[row]};
}

// No row of the tile looks at positions before this one. Of a tree no token is nearer to the beginning than its root.
__device__ inline int oldest_of(const AttendTile& tile, int window) {
  const int first = tile.tree_begin == INT_MAX ? tile.position : tile.tree_begin;
  return window > 0 ? max(first - window + 1, 0) : 0;
}

// 2^x, or zero where that is below 2^-126.
__device__ inline float exp2_of(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
__device__ inline float exp_of(float x) { return exp2_of(x * 1.4426950408889634f); }
__device__ inline float soft_tanh(float x) { return 1.0f - __fdividef(2.0f, 1.0f + exp_of(2.0f * x)); }

// Whether all rows see all of 16 tokens as they are.
__device__ inline bool sees_all(const AttendRule& rule, const AttendTile& tile, int first_slot) {
  const bool young = rule.window == 0 || first_slot > tile.position + tile.rows - 1 - rule.window;
  return tile.tree_begin == INT_MAX && first_slot + 15 <= tile.position && young && rule.softcap == 0;
}

// The soft cap, and what rows do not see. `first_slot`: of the lane's four.
template <int kHalves>
__device__ inline void mask_scores(const AttendRule& rule, const AttendTile& tile, const RowView (&rows)[2],
                                   int first_slot, float (&scores)[2][4]) {
  if (rule.softcap > 0) {
    const float inverse = __fdividef(1.0f, rule.softcap);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i % 4 / 2 < kHalves) scores[i / 4][i % 4] = rule.softcap * soft_tanh(scores[i / 4][i % 4] * inverse);
    }
  }
  if (tile.tree_begin != INT_MAX) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i % 4 / 2 >= kHalves) continue;
      if (!sees(rows[i % 4 / 2], tile.tree_begin, first_slot + i / 4 * 2 + i % 2)) scores[i / 4][i % 4] = -INFINITY;
    }
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int slot = first_slot + i / 4 * 2 + i % 2;
      if (i % 4 / 2 >= kHalves) continue;
      if (slot > rows[i % 4 / 2].position || slot < rows[i % 4 / 2].oldest) scores[i / 4][i % 4] = -INFINITY;
    }
  }
}

// Two weights of tokens, of 1 at most, as operands: what is high, and what is low. Halves give an absolute 2^-25, which
// is enough; times the scale of an 8-bit value it stays below that value's own rounding.
template <bool kBF16>
__device__ inline void split_weights(const float (&pair)[2], uint32_t& high, uint32_t& low) {
  if constexpr (kBF16) {
    split_pair<true>(pair[0], pair[1], high, low);
  } else {
    const __half2 h = __floats2half2_rn(pair[0], pair[1]);
    const float2 back = __half22float2(h);
    high = bits_of(h);
    low = bits_of(__floats2half2_rn(pair[0] - back.x, pair[1] - back.y));
  }
}

// A larger score than before makes what was added up so far count for less. `now` is the largest of a lane's scores of
// either row, and of those before.
template <int kHalves, int kTiles, typename Exp>
__device__ inline void raise_largest(float (&now)[2], float (&largest)[2], float (&sum)[2], float (&values)[kTiles][4],
                                     Exp exp) {
#pragma unroll
  for (int r = 0; r < kHalves; ++r) {
    now[r] = fmaxf(now[r], __shfl_xor_sync(~0u, now[r], 1));
    now[r] = fmaxf(now[r], __shfl_xor_sync(~0u, now[r], 2));
  }
  if (__all_sync(~0u, now[0] <= largest[0] && (kHalves == 1 || now[1] <= largest[1]))) return;
#pragma unroll
  for (int r = 0; r < kHalves; ++r) {
    const float shrink = now[r] == -INFINITY ? 1.0f : exp(largest[r] - now[r]);
    largest[r] = now[r];
    sum[r] *= shrink;
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      values[i][2 * r] *= shrink;
      values[i][2 * r + 1] *= shrink;
    }
  }
}

// Where warps leave the states of their softmaxes in shared memory: [warp][query] of values, then the largest score and
// the sum. `blocks`: head_dim in units of 64 columns, rounded up.
constexpr int state_floats(int blocks) { return blocks * 64 + 4; }

// Warp number `warp`'s states of queries g and g + 8, lanes (g, t) having columns 16t to 16t + 15 of each 64: tile i of
// `values` has of each 8 of them the one number i % 8.
template <int kBlocks>
__device__ inline void leave_states(float* states, int queries, int warp, const float (&largest)[2], float (&sum)[2],
                                    const float (&values)[kBlocks * 8][4]) {
  const int lane = threadIdx.x % 32;
  const int t = lane % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
    sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
    const int query = lane / 4 + 8 * r;
    if (query >= queries) continue;
    float* state = states + (warp * queries + query) * state_floats(kBlocks);
    if (t == 0) *reinterpret_cast<float2*>(state + kBlocks * 64) = {largest[r], sum[r]};
#pragma unroll
    for (int i = 0; i < kBlocks * 8; i += 4) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int c = 2 * r + j;
        *reinterpret_cast<float4*>(state + i / 8 * 64 + t * 16 + j * 8 + i % 8) = {values[i][c], values[i + 1][c],
                                                                                   values[i + 2][c], values[i + 3][c]};
      }
    }
  }
}

// A query's states of all warps as one, by one warp: `rest(largest, sum)` by every lane, then `value(column, x)` for
// all columns, kColumns at a time. `warps`: how many have one, kWarps at most.
template <int kBlocks, int kWarps, int kColumns, typename Rest, typename Value>
__device__ inline void join_warps(const float* states, int queries, int query, int dim, Rest rest, Value value,
                                  int warps = kWarps) {
  struct alignas(kColumns * 4) Columns {
    float x[kColumns];
  };
  const auto state = [&](int warp) { return states + (warp * queries + query) * state_floats(kBlocks); };
  float2 ends[kWarps];
  float most = -INFINITY;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    ends[w] = {-INFINITY, 0};
    if (w < warps) ends[w] = *reinterpret_cast<const float2*>(state(w) + kBlocks * 64);
    most = fmaxf(most, ends[w].x);
  }
  const float base = fmaxf(most, -1e30f);  // less than infinitely little, so that nothing is zero
  float factors[kWarps];
  float all = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    factors[w] = exp_of(ends[w].x - base);
    all = fmaf(ends[w].y, factors[w], all);
  }
  rest(most, all);
#pragma unroll 1
  for (int column = threadIdx.x % 32 * kColumns; column < dim; column += 32 * kColumns) {
    Columns sum = {};
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      if (w >= warps) continue;
      const Columns of_warp = *reinterpret_cast<const Columns*>(state(w) + column);
#pragma unroll
      for (int i = 0; i < kColumns; ++i) sum.x[i] = fmaf(of_warp.x[i], factors[w], sum.x[i]);
    }
    value(column, sum.x);
  }
}

}  // namespace edgewise::cuda
