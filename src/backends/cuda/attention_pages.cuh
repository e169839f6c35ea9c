// How attention_mma.cu's warps walk over a tile's pages, as attention_tile.cuh has it: straight from memory to
// registers.
#pragma once

#include "backends/cuda/attention_tile.cuh"

namespace edgewise::cuda {

inline constexpr int kPageWarps = 4;  // of 16 tokens of a page each
// Pages of a tile go by turns to so many states, which are joined in the end. Each turn has warps of its own where few
// tiles leave room for them; else the same warps take one turn after the other, with the same bits.
constexpr int page_turns(int blocks) { return blocks <= 2 ? 2 : 1; }

// A warp's softmax over its share of a tile's pages, one tile after another. Keys and values of the next page are on
// their way while this one's are multiplied. kBlocks: head_dim in units of 64 columns, rounded up.
template <typename T, int kBlocks>
class PageWalk {
 public:
  // In shared memory: views of the tile's queries, and those as operands (stage_queries()).
  __device__ PageWalk(const KvLayer& layer, const AttendRule& rule, const RowView* rows, const uint4 (*q_high)[32],
                      const uint4 (*q_low)[32])
      : layer_(layer), rule_(rule), rows_(rows), q_high_(q_high), q_low_(q_low) {
    const int dim = layer.head_dim;
    keys_ = static_cast<const T*>(layer.keys) + (token_ + g_ / 2 * 4 + g_ % 2) * dim + t_ * 8;
    values_ = static_cast<const T*>(layer.values) + (token_ + t_ * 4) * dim + g_ * 8;
  }

  // Goes to a tile, in shared memory; its first page is on its way to the L2 cache then.
  __device__ void begin(const AttendTile& tile, int kv_head) {
    tile_ = &tile;
    kv_head_ = kv_head;
    first_ = max(tile.page_begin, oldest_of(tile, rule_.window) / kPageSlots);
    look_up(0);
    const int p = first_of(group());
    if (p < tile.page_end) bring_near(page_of(tile, rule_.pages, p) * layer_.kv_heads + kv_head);
  }

  // Leaves the states of turn t as those of warps 4t to 4t + 3 (leave_states()).
  __device__ __forceinline__ void walk(float* states) {
    if (halves_of(kBlocks, queries()) == 1)
      walk_halves<1>(states);
    else
      walk_halves<2>(states);
  }

 private:
  template <int kHalves>
  __device__ __forceinline__ void walk_halves(float* states) {
    const int end = tile_->page_end;
    const int groups = static_cast<int>(blockDim.x) / (32 * kPageWarps);
    int turn = group();
    for (; turn < kTurns && first_of(turn) >= end; turn += groups) leave_nothing(states, turn);
    if (turn >= kTurns) return;
    int p = first_of(turn);
    int head = head_of(p);
    if constexpr (kAhead) {
      clear(key_words_);
      clear(value_words_);
      ask_keys(head);
      ask_values(head);
    }
    reset();
#pragma unroll 1
    while (true) {
      int next = p + kTurns;
      const bool ends = next >= end;
      if (ends && turn + groups < kTurns) next = first_of(turn + groups);
      const bool more = next < end;
      if constexpr (!kAhead) ask_keys(head);
      float scores[2][4];
      score<kHalves>(scores);
      if constexpr (!kAhead) ask_values(head);
      if (more) {
        head = head_of(next);
        if constexpr (kAhead) ask_keys(head);
      }
      if (!sees_all(rule_, *tile_, p * kPageSlots + token_)) {
        const RowView rows[2] = {rows_[g_], rows_[g_ + 8]};
        mask_scores<kHalves>(rule_, *tile_, rows, p * kPageSlots + token_ + t_ * 4, scores);
      }
      uint32_t high[4], low[4];
      weigh<kHalves>(scores, high, low);
      add_values(high, low);
      if (kAhead && more) ask_values(head);
      p = next;
      if (!ends) continue;
      leave_states<kBlocks>(states, queries(), warp_of(turn), largest_, sum_, sums_);
      turn += groups;
      if (!more) break;
      reset();
    }
    for (; turn < kTurns; turn += groups) leave_nothing(states, turn);
  }

  using Word = typename Eight<T>::Word;
  static constexpr bool kBF16 = Cache<T>::kBF16;
  static constexpr bool kScaled = Cache<T>::kScaled;
  static constexpr int kTurns = page_turns(kBlocks);
  static constexpr bool kAhead = kBlocks <= 2;                             // there are registers for it
  static constexpr int kSteps = 2 * kBlocks;                               // of 32 columns of a key
  static constexpr int kSurely = kBlocks == 4 ? 128 : (kBlocks - 1) * 64;  // columns that every head has

  // By its number alone: a row's bits must not depend on where other rows begin.
  __device__ int first_of(int turn) const { return first_ + (first_ + turn) % kTurns; }
  __device__ int queries() const { return tile_->rows * rule_.group; }
  __device__ int warp_of(int turn) const { return turn * kPageWarps + token_ / 16; }
  __device__ void leave_nothing(float* states, int turn) const {
    float* const state = states + warp_of(turn) * queries() * state_floats(kBlocks);
#pragma unroll 1
    for (int i = lane_; i < queries() * state_floats(kBlocks); i += 32)
      state[i] = i % state_floats(kBlocks) == kBlocks * 64 ? -INFINITY : 0.0f;
  }
  __device__ static int group() { return static_cast<int>(threadIdx.x) / (32 * kPageWarps); }

  // The numbers of 32 pages, a lane each.
  __device__ void look_up(int window) {
    window_ = window;
    const int p = first_ + window + lane_;
    if (p < tile_->page_end) numbers_ = page_of(*tile_, rule_.pages, p);
  }
  // Page number p's of this key head, among all pages' heads.
  __device__ int head_of(int p) {
    const int window = (p - first_) & ~31;
    if (window != window_) look_up(window);
    return __shfl_sync(~0u, numbers_, (p - first_) & 31) * layer_.kv_heads + kv_head_;
  }
  // The first of its tokens among all, and of the first one's columns.
  __device__ static int64_t slot_of(int head) { return static_cast<int64_t>(head) * kPageSlots; }
  __device__ int64_t columns_of(int head) const { return static_cast<int64_t>(head) * (kPageSlots * layer_.head_dim); }

  // The warp's tokens of a page on their way to the L2 cache.
  __device__ void bring_near(int head) const {
    const int bytes = 16 * layer_.head_dim * static_cast<int>(sizeof(T));
    const int64_t first = columns_of(head) + token_ * layer_.head_dim;
    const auto* keys = reinterpret_cast<const char*>(static_cast<const T*>(layer_.keys) + first);
    const auto* values = reinterpret_cast<const char*>(static_cast<const T*>(layer_.values) + first);
#pragma unroll
    for (int line = lane_ * 128; line < 16 * kBlocks * 64 * static_cast<int>(sizeof(T)); line += 32 * 128) {
      if (line >= bytes) continue;
      prefetch_line(keys + line);
      prefetch_line(values + line);
    }
  }
  __device__ void reset() {
    largest_[0] = largest_[1] = -INFINITY;
    sum_[0] = sum_[1] = 0;
#pragma unroll
    for (int i = 0; i < kBlocks * 32; ++i) sums_[i / 4][i % 4] = 0;
  }
  template <int kRows, int kColumns>
  __device__ static void clear(Word (&words)[kRows][kColumns]) {
#pragma unroll
    for (int i = 0; i < kRows * kColumns; ++i) words[i / kColumns][i % kColumns] = {};
  }
  // Columns that a head does not have are zero.
  __device__ static void load(const T* from, bool there, Word& to) {
    if (!kAhead) to = {};
    if (there) to = __ldcg(reinterpret_cast<const Word*>(from));
  }
  __device__ __forceinline__ void ask_keys(int head) {
    const int dim = layer_.head_dim;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const T* from = keys_ + columns_of(head) + i * 2 * dim;
#pragma unroll
      for (int step = 0; step < kSteps; ++step)
        load(from + step * 32, step * 32 < kSurely || step * 32 + t_ * 8 < dim, key_words_[step][i]);
    }
    if constexpr (kScaled) key_scales_ = scales_at(layer_.key_scales + slot_of(head));
  }
  __device__ __forceinline__ void ask_values(int head) {
    const int dim = layer_.head_dim;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const T* from = values_ + columns_of(head) + j * dim;
#pragma unroll
      for (int block = 0; block < kBlocks; ++block)
        load(from + block * 64, block * 64 < kSurely || block * 64 + g_ * 8 < dim, value_words_[block][j]);
    }
    if constexpr (kScaled) value_scales_ = scales_at(layer_.value_scales + slot_of(head));
  }
  __device__ float4 scales_at(const float* from) const {
    return __ldcg(reinterpret_cast<const float4*>(from + token_ + t_ * 4));
  }

  // Column c of the two tiles of scores is token c / 2 * 4 + c % 2, and that + 2: where the other product wants it.
  template <int kHalves>
  __device__ __forceinline__ void score(float (&scores)[2][4]) const {
    float low_scores[2][4] = {};
#pragma unroll
    for (int i = 0; i < 8; ++i) scores[i / 4][i % 4] = 0;
    uint4 next_high = q_high_[0][lane_];
    uint4 next_low = {};
    if (kHalves == 2) next_low = q_low_[0][lane_];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t key[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) unpack_eight<T>(key_words_[step][i], key[i]);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint4 high = next_high;
        const uint4 low = next_low;
        const int next = min(step * 2 + half + 1, 2 * kSteps - 1);
        next_high = q_high_[next][lane_];
        if (kHalves == 2) next_low = q_low_[next][lane_];
        const uint32_t a[4] = {high.x, high.y, high.z, high.w};
        const uint32_t b[4] = {low.x, low.y, low.z, low.w};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          multiply_tile<kBF16>(scores[i], a, key[i][2 * half], key[i][2 * half + 1]);
          if (kHalves == 2) multiply_tile<kBF16>(low_scores[i], b, key[i][2 * half], key[i][2 * half + 1]);
        }
      }
    }
    const float scale[4] = {key_scales_.x, key_scales_.y, key_scales_.z, key_scales_.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i % 4 / 2 >= kHalves) continue;
      float& score = scores[i / 4][i % 4];
      // Where there is one half, the other one's scores are what is low.
      score += (kHalves == 2 ? low_scores[i / 4][i % 4] : scores[i / 4][i % 4 + 2]) * (1.0f / kLowFactor<kBF16>);
      if constexpr (kScaled) score *= scale[i / 4 * 2 + i % 2];
    }
  }

  // Scores as weights of tokens, operands of 16 bits.
  template <int kHalves>
  __device__ __forceinline__ void weigh(float (&scores)[2][4], uint32_t (&high)[4], uint32_t (&low)[4]) {
    float now[2] = {largest_[0], largest_[1]};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i % 4 / 2 < kHalves) now[i % 4 / 2] = fmaxf(now[i % 4 / 2], scores[i / 4][i % 4]);
    }
    raise_largest<kHalves>(now, largest_, sum_, sums_, [](float x) { return exp_of(x); });
    // Where a row has seen nothing yet: exp(-inf) is zero, and that of -inf less -inf is no number.
    const float base[2] = {fmaxf(largest_[0], -1e30f), fmaxf(largest_[1], -1e30f)};
    const float scale[4] = {value_scales_.x, value_scales_.y, value_scales_.z, value_scales_.w};
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      high[r] = low[r] = 0;
      if (r % 2 >= kHalves) continue;
      float pair[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        pair[j] = exp_of(scores[r / 2][r % 2 * 2 + j] - base[r % 2]);
        sum_[r % 2] += pair[j];
        if constexpr (kScaled) pair[j] *= scale[r / 2 * 2 + j];
      }
      split_weights<kBF16>(pair, high[r], low[r]);
    }
  }

  __device__ __forceinline__ void add_values(const uint32_t (&high)[4], const uint32_t (&low)[4]) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      uint32_t v[4][4];  // four tokens of eight neighbouring columns
#pragma unroll
      for (int j = 0; j < 4; ++j) unpack_eight<T>(value_words_[block][j], v[j]);
      // Joined two by two. Column g of tile i is column g * 8 + i.
      uint32_t b[8][2];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const uint32_t select = i % 2 == 0 ? 0x5410 : 0x7632;
        b[i][0] = __byte_perm(v[0][i / 2], v[1][i / 2], select);
        b[i][1] = __byte_perm(v[2][i / 2], v[3][i / 2], select);
        multiply_tile<kBF16>(sums_[block * 8 + i], high, b[i][0], b[i][1]);
      }
      // Behind all of those, so that nobody waits for the sum before.
#pragma unroll
      for (int i = 0; i < 8; ++i) multiply_tile<kBF16>(sums_[block * 8 + i], low, b[i][0], b[i][1]);
    }
  }

  const KvLayer& layer_;
  const AttendRule& rule_;
  const RowView* rows_;
  const uint4 (*q_high_)[32];
  const uint4 (*q_low_)[32];
  const int lane_ = threadIdx.x % 32;
  const int g_ = lane_ / 4;
  const int t_ = lane_ % 4;
  const int token_ = threadIdx.x / 32 % kPageWarps * 16;  // the warp's first one of a page
  const T* keys_;                                         // of the lane's first token, in the cache's first page
  const T* values_;
  const AttendTile* tile_;
  int kv_head_ = 0;
  int first_ = 0;    // page
  int window_ = 0;   // of pages behind it
  int numbers_ = 0;  // of those
  Word key_words_[kSteps][2];
  Word value_words_[kBlocks][4];
  float4 key_scales_;  // of the lane's four tokens, for scaled types
  float4 value_scales_;
  float largest_[2];
  float sum_[2];
  float sums_[kBlocks * 8][4];
};

}  // namespace edgewise::cuda
