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

// What a warp takes of a tile's pages: 16 tokens of each, and with others of the same turn whole pages.
struct SoftmaxPlace {
  int lane;
  int warp;

  __device__ explicit SoftmaxPlace(int thread) : lane(thread % 32), warp(thread / 32) {}
  __device__ int turn() const { return warp / kTokenGroups; }
  // The first of its tokens in a page.
  __device__ int token() const { return warp % kTokenGroups * 16; }
};

// A warp's softmax: 16 tokens of each of its pages.
template <typename T>
struct WarpSoftmax {
  static constexpr bool kBF16 = Cache<T>::kBF16;
  static constexpr bool kScaled = Cache<T>::kScaled;
  static constexpr int kHalves = kMostStepHeadDim / 64;
  static_assert(kStateFloats == state_floats(kHalves));
  const SoftmaxPlace& at;
  RowView rows[2];  // of queries g and g + 8
  float largest[2] = {-INFINITY, -INFINITY};
  float sum[2] = {};
  float values[kHalves * 8][4] = {};
  uint32_t high[4];  // a page's weights of tokens as operands
  uint32_t low[4];

  __device__ static void load(const TileWork& work, const std::byte* rows, int row, int column, uint32_t (&to)[4]) {
    using Word = typename Eight<T>::Word;
    const auto* from =
        reinterpret_cast<const Word*>(rows + row * page_row_bytes(work.dim(), sizeof(T)) + column * sizeof(T));
    unpack_eight<T>(column < work.dim() ? *from : Word{}, to);
  }
  // Of a page's head, in slots.
  __device__ int64_t scales_at(const TileWork& work, int64_t stored) const {
    return (stored * work.op.layer.kv_heads + work.kv_head) * kPageSlots + at.token() + at.lane % 4 * 4;
  }

  // The weights of a page, which is number `stored` of the cache's, whose keys are in shared memory, from
  // `rows_of_page` on. `after_keys`: called when they are no longer wanted.
  template <typename AfterKeys>
  __device__ void weigh(const TileWork& work, const AttendRule& rule, int page, int stored,
                        const std::byte* rows_of_page, AfterKeys after_keys) {
    const int g = at.lane / 4;
    const int t = at.lane % 4;
    const int dim = work.dim();
    // Column c of the two tiles of scores is token c / 2 * 4 + c % 2, and that + 2: where the other product wants it.
    float scores[2][4] = {};
    float low_scores[2][4] = {};
#pragma unroll
    for (int step = 0; step < AttendMemory::kSteps; ++step) {
      if (step * 32 >= dim) break;
      uint32_t key[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i)
        load(work, rows_of_page, at.token() + g / 2 * 4 + g % 2 + i * 2, step * 32 + t * 8, key[i]);
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const uint4 q_high = work.memory.q[0][step * 2 + part][at.lane];
        const uint4 q_low = work.memory.q[1][step * 2 + part][at.lane];
        const uint32_t a[4] = {q_high.x, q_high.y, q_high.z, q_high.w};
        const uint32_t b[4] = {q_low.x, q_low.y, q_low.z, q_low.w};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          multiply_tile<kBF16>(scores[i], a, key[i][2 * part], key[i][2 * part + 1]);
          multiply_tile<kBF16>(low_scores[i], b, key[i][2 * part], key[i][2 * part + 1]);
        }
      }
    }
    after_keys();
    float scale[2][4];  // of keys and values, where they have any
    if constexpr (kScaled) {
      const int64_t first = scales_at(work, stored);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scale[0][i] = __ldcg(work.op.layer.key_scales + first + i);
        scale[1][i] = __ldcg(work.op.layer.value_scales + first + i);
      }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int of_two = i / 4;
      float score = scores[of_two][i % 4] + low_scores[of_two][i % 4] * (1.0f / kLowFactor<kBF16>);
      if constexpr (kScaled) score *= scale[0][of_two * 2 + i % 2];
      scores[of_two][i % 4] = score;
    }
    if (!sees_all(rule, work.tile(), page * kPageSlots + at.token()))
      mask_scores<2>(rule, work.tile(), rows, page * kPageSlots + at.token() + t * 4, scores);
    float now[2] = {largest[0], largest[1]};
#pragma unroll
    for (int i = 0; i < 8; ++i) now[i % 4 / 2] = fmaxf(now[i % 4 / 2], scores[i / 4][i % 4]);
    raise_largest<2>(now, largest, sum, values, [](float x) { return exp_of(x); });
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      float pair[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float score = scores[r / 2][r % 2 * 2 + j];
        pair[j] = score == -INFINITY ? 0.0f : exp_of(score - largest[r % 2]);
        sum[r % 2] += pair[j];
        if constexpr (kScaled) pair[j] *= scale[1][r / 2 * 2 + j];
      }
      split_weights<kBF16>(pair, high[r], low[r]);
    }
  }

  // The weighted values of the same page, once they are in shared memory.
  __device__ void add_values(const TileWork& work, const std::byte* rows_of_page) {
    const int g = at.lane / 4;
    const int t = at.lane % 4;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      if (half * 64 >= work.dim()) break;
      uint32_t v[4][4];  // four tokens of eight neighbouring columns
#pragma unroll
      for (int j = 0; j < 4; ++j)
        load(work, rows_of_page, kPageSlots + at.token() + t * 4 + j, half * 64 + g * 8, v[j]);
        // Joined two by two. Column g of tile i is column g * 8 + i.
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const uint32_t select = i % 2 == 0 ? 0x5410 : 0x7632;
        const uint32_t b0 = __byte_perm(v[0][i / 2], v[1][i / 2], select);
        const uint32_t b1 = __byte_perm(v[2][i / 2], v[3][i / 2], select);
        multiply_tile<kBF16>(values[half * 8 + i], high, b0, b1);
        multiply_tile<kBF16>(values[half * 8 + i], low, b0, b1);
      }
    }
  }
};

}  // namespace edgewise::cuda
