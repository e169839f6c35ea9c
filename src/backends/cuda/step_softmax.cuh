// Softmax over the pages of a tile within the kernel of a step, from shared memory.
#pragma once

#include "backends/cuda/attention_tile.cuh"
#include "backends/cuda/step_kernel.h"

namespace edgewise::cuda {

// What one block does of an operator: a tile of queries, a key head.
struct TileWork {
  const StepCall& call;
  const StepOp& op;
  AttendMemory& memory;
  const AttendTile& here;
  std::byte* pages;  // behind the memory
  const uint8_t* slot_counts;
  const int32_t* slots;  // of the step's rows, in the cache
  uint32_t number;
  int kv_head;

  __device__ const AttendTile& tile() const { return here; }
  __device__ int dim() const { return op.layer.head_dim; }
  __device__ int group() const { return op.group; }
  __device__ int queries() const { return here.rows * group(); }
  // Rows of the step whose keys the tile's pages take: from the sequence's first_new() on.
  __device__ int first_new() const { return max(0, here.page_begin * kPageSlots - here.kv_length); }
  __device__ int new_rows() const {
    const int end = here.page_end * kPageSlots - here.kv_length;
    return max(0, min(here.sequence_rows, end) - first_new());
  }
  __device__ float* states() const { return reinterpret_cast<float*>(pages); }
  template <typename T>
  __device__ T* fresh(bool is_value, int row) const {
    return reinterpret_cast<T*>(memory.fresh[is_value ? 1 : 0][row]);
  }
};

__device__ inline float soft_tanh(float x) { return 1.0f - 2.0f / (1.0f + __expf(2.0f * x)); }

inline constexpr int kSoftmaxWarps = 2 * kTokenGroups;

// A warp's softmax: 16 tokens of each page, and half of the columns of their values.
template <typename T>
struct WarpSoftmax {
  static constexpr bool kBF16 = Cache<T>::kBF16;
  static constexpr bool kScaled = Cache<T>::kScaled;
  float largest[2] = {-INFINITY, -INFINITY};
  float sum[2] = {};
  float values[8][4] = {};

  __device__ void add_page(const TileWork& work, const AttendRule& rule, int page, const std::byte* rows_of_page) {
    const int lane = this_thread() % 32;
    const int g = lane / 4;
    const int t = lane % 4;
    const int token = static_cast<int>(this_thread() / 32) % kTokenGroups * 16;
    const int half = static_cast<int>(this_thread() / 32) / kTokenGroups;
    const int dim = work.dim();
    const int stride = page_row_bytes(dim, sizeof(T));
    const int64_t head =
        (static_cast<int64_t>(page_of(rule.tile, rule.pages, page)) * work.op.layer.kv_heads + work.kv_head) *
        kPageSlots;
    using Word = typename Eight<T>::Word;
    const auto load = [&](int row, int column, uint32_t(&to)[4]) {
      const auto* from = reinterpret_cast<const Word*>(rows_of_page + row * stride + column * sizeof(T));
      unpack_eight<T>(column < dim ? *from : Word{}, to);
    };
    // Column c of the two tiles of scores is token c / 2 * 4 + c % 2, and that + 2: where the other product wants it.
    float scores[2][4] = {};
    float low_scores[2][4] = {};
#pragma unroll 1
    for (int step = 0; step < (dim + 31) / 32; ++step) {
      uint32_t key[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) load(token + g / 2 * 4 + g % 2 + i * 2, step * 32 + t * 8, key[i]);
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const uint4 high = work.memory.q[0][step * 2 + part][lane];
        const uint4 low = work.memory.q[1][step * 2 + part][lane];
        const uint32_t a[4] = {high.x, high.y, high.z, high.w};
        const uint32_t b[4] = {low.x, low.y, low.z, low.w};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          multiply_tile<kBF16>(scores[i], a, key[i][2 * part], key[i][2 * part + 1]);
          multiply_tile<kBF16>(low_scores[i], b, key[i][2 * part], key[i][2 * part + 1]);
        }
      }
    }
    float now[2] = {largest[0], largest[1]};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int of_two = i / 4;
      const int slot = token + t * 4 + of_two * 2 + i % 2;
      float score = scores[of_two][i % 4] + low_scores[of_two][i % 4] * (1.0f / kLowFactor<kBF16>);
      if constexpr (kScaled) score *= __ldcg(work.op.layer.key_scales + head + slot);
      scores[of_two][i % 4] = score;
    }
    if (rule.softcap > 0) {
#pragma unroll
      for (int i = 0; i < 8; ++i) scores[i / 4][i % 4] = rule.softcap * soft_tanh(scores[i / 4][i % 4] / rule.softcap);
    }
    RowView rows[2];
    look_at_rows(rule, *rule.tile, g, rows);
    const int first_slot = page * kPageSlots + token + t * 4;
    if (rule.tile->tree_begin != INT_MAX) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (!sees(rows[i % 4 / 2], rule.tile->tree_begin, first_slot + i / 4 * 2 + i % 2))
          scores[i / 4][i % 4] = -INFINITY;
      }
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int slot = first_slot + i / 4 * 2 + i % 2;
        if (slot > rows[i % 4 / 2].position || slot < rows[i % 4 / 2].oldest) scores[i / 4][i % 4] = -INFINITY;
      }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) now[i % 4 / 2] = fmaxf(now[i % 4 / 2], scores[i / 4][i % 4]);
    raise_largest(now, largest, sum, values, [](float x) { return __expf(x); });
    // Weights of tokens as operands: what is high, and what is low. Halves give an absolute 2^-25, which is enough for
    // weights of 1 at most; times the scale of an 8-bit value it stays below that value's own rounding.
    uint32_t high[4], low[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      float pair[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float score = scores[r / 2][r % 2 * 2 + j];
        pair[j] = score == -INFINITY ? 0.0f : __expf(score - largest[r % 2]);
        sum[r % 2] += pair[j];
        if constexpr (kScaled) pair[j] *= __ldcg(work.op.layer.value_scales + head + token + t * 4 + r / 2 * 2 + j);
      }
      split_weights(pair, high[r], low[r]);
    }
    uint32_t v[4][4];  // four tokens of eight neighbouring columns
#pragma unroll
    for (int j = 0; j < 4; ++j) load(kPageSlots + token + t * 4 + j, half * 64 + g * 8, v[j]);
      // Joined two by two. Column g of tile i is column g * 8 + i.
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint32_t select = i % 2 == 0 ? 0x5410 : 0x7632;
      const uint32_t b0 = __byte_perm(v[0][i / 2], v[1][i / 2], select);
      const uint32_t b1 = __byte_perm(v[2][i / 2], v[3][i / 2], select);
      multiply_tile<kBF16>(values[i], high, b0, b1);
      multiply_tile<kBF16>(values[i], low, b0, b1);
    }
  }

  __device__ static void split_weights(const float (&pair)[2], uint32_t& high, uint32_t& low) {
    if constexpr (kBF16) {
      split_pair<true>(pair[0], pair[1], high, low);
    } else {
      const __half2 h = __floats2half2_rn(pair[0], pair[1]);
      const float2 back = __half22float2(h);
      high = bits_of(h);
      low = bits_of(__floats2half2_rn(pair[0] - back.x, pair[1] - back.y));
    }
  }

  // [group of tokens][query][kMostStepHeadDim + 2]
  __device__ void leave(float* states, int queries) {
    const int lane = this_thread() % 32;
    const int g = lane / 4;
    const int t = lane % 4;
    const int group = static_cast<int>(this_thread() / 32) % kTokenGroups;
    const int half = static_cast<int>(this_thread() / 32) / kTokenGroups;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
      sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
      if (g + 8 * r >= queries) continue;
      float* state = states + (group * queries + g + 8 * r) * (kMostStepHeadDim + 2);
      if (t == 0 && half == 0) {
        state[kMostStepHeadDim] = largest[r];
        state[kMostStepHeadDim + 1] = sum[r];
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {  // columns 2t and 2t + 1 of tile i
        state[half * 64 + 2 * t * 8 + i] = values[i][2 * r];
        state[half * 64 + (2 * t + 1) * 8 + i] = values[i][2 * r + 1];
      }
    }
  }
};

}  // namespace edgewise::cuda
