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

// `tile` where it lies in memory: registers have no order.
__device__ inline int page_of(const AttendTile* tile, const int32_t* pages, int number) {
  const int index = number - tile->page_begin;
  return index < AttendTile::kPagesHere ? tile->pages[index] : pages[tile->page_table + number];
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

// The operands of a tile's queries, by step of 32 columns and its halves; first what is high, then what is low. By so
// many threads; `at(query, column)` gives two neighbours.
template <bool kBF16, int kSteps, typename At>
__device__ inline void stage_queries(uint4 (*q_high)[32], uint4 (*q_low)[32], int queries, int dim, float scale,
                                     int threads, At at) {
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
    q_high[step * 2 + half][of_lane] = make_uint4(high[0], high[1], high[2], high[3]);
    q_low[step * 2 + half][of_lane] = make_uint4(low[0], low[1], low[2], low[3]);
  }
}

// What an operator's tiles have in common.
struct AttendRule {
  float softcap = 0;
  int window = 0;
  int group = 1;  // query heads a key head
  const int32_t* positions = nullptr;
  const uint64_t* masks = nullptr;   // [N]
  const AttendTile* tile = nullptr;  // the one under way, where it lies
  const int32_t* pages = nullptr;    // page tables
};

// The rows of queries g and g + 8, and the oldest position that either sees.
__device__ inline int look_at_rows(const AttendRule& call, const AttendTile& tile, int g, RowView (&rows)[2]) {
  const int queries = tile.rows * call.group;
  int oldest = INT_MAX;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int query = g + 8 * r;
    const int row = query < queries ? tile.first_row + query / call.group : tile.first_row;
    const int position = tile.tree_begin == INT_MAX ? tile.position + row - tile.first_row : call.positions[row];
    rows[r].position = query < queries ? position : -1;
    rows[r].oldest = call.window > 0 ? position - call.window + 1 : 0;
    rows[r].mask = tile.tree_begin == INT_MAX ? 0 : call.masks[row];
    oldest = min(oldest, rows[r].oldest);
  }
  return oldest;
}

// A larger score than before makes what was added up so far count for less. `now` is the largest of a lane's scores of
// either row, and of those before.
template <int kTiles, typename Exp>
__device__ inline void raise_largest(float (&now)[2], float (&largest)[2], float (&sum)[2], float (&values)[kTiles][4],
                                     Exp exp) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    now[r] = fmaxf(now[r], __shfl_xor_sync(~0u, now[r], 1));
    now[r] = fmaxf(now[r], __shfl_xor_sync(~0u, now[r], 2));
  }
  if (__all_sync(~0u, now[0] <= largest[0] && now[1] <= largest[1])) return;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
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

// A query's states of all warps as one, by one warp: `value(column, x)` for each column, `rest(largest, sum)` by every
// lane. `warps`: how many have one, kWarps at most.
template <int kBlocks, int kWarps, typename Rest, typename Value>
__device__ inline void join_warps(const float* states, int queries, int query, int dim, Rest rest, Value value,
                                  int warps = kWarps) {
  const int stride = kBlocks * 64 + 2;
  const auto state = [&](int warp) { return states + (warp * queries + query) * stride; };
  float most = -INFINITY;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    if (w < warps) most = fmaxf(most, state(w)[kBlocks * 64]);
  }
  float factors[kWarps];
  float all = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    factors[w] = w >= warps || most == -INFINITY ? 0.0f : __expf(state(w)[kBlocks * 64] - most);
    if (w < warps) all += state(w)[kBlocks * 64 + 1] * factors[w];
  }
  rest(most, all);
#pragma unroll 1
  for (int column = threadIdx.x % 32; column < dim; column += 32) {
    float x = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      if (w < warps) x += state(w)[column] * factors[w];
    }
    value(column, x);
  }
}

}  // namespace edgewise::cuda
