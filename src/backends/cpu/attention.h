// Attention over a paged KV cache.
//
// A row's softmax is taken over ranges of kRangeTokens positions, counted from position 0: each range has its
// own maximum, sum and weighted values, built page by page, and ranges are merged in ascending order. Whether
// one worker walks all ranges or many share them, and which rows stand together in a tile, changes no bit.
//
// Pages of one layer: keys [page][kv_head][head_dim][64], so that 64 scores come from whole vectors without a
// sum across lanes; values [page][kv_head][64][padded_dim]. In INT8 and FP8 each head's part of a page ends with
// its float32 scales [64] (kv_scale.h), which go into the scores and the weights and never touch a key or value.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "backends/backend.h"
#include "backends/cpu/isa.h"
#include "backends/kv_scale.h"

namespace edgewise::cpu {

inline constexpr int kRangeTokens = 256;
inline constexpr int kMaxQueries = 48;  // query vectors (tokens x heads of a group) of a tile

struct KvLayout {
  DType dtype = DType::kBF16;
  int kv_heads = 0;
  int head_dim = 0;
  int padded_dim = 0;  // a multiple of 16
  size_t element = 2;

  static KvLayout make(DType dtype, int kv_heads, int head_dim);
  size_t key_codes_bytes() const { return static_cast<size_t>(head_dim) * kPageTokens * element; }
  size_t value_codes_bytes() const { return static_cast<size_t>(padded_dim) * kPageTokens * element; }
  size_t key_head_bytes() const { return key_codes_bytes() + scale_bytes(); }
  size_t value_head_bytes() const { return value_codes_bytes() + scale_bytes(); }
  size_t scale_bytes() const { return kv_is_scaled(dtype) ? kPageTokens * sizeof(float) : 0; }
  size_t key_page_bytes() const { return static_cast<size_t>(kv_heads) * key_head_bytes(); }
  size_t value_page_bytes() const { return static_cast<size_t>(kv_heads) * value_head_bytes(); }
};

// One head's part of a page.
struct HeadPage {
  std::byte* keys = nullptr;
  std::byte* values = nullptr;
};

struct KvPages {
  std::byte* keys = nullptr;
  std::byte* values = nullptr;

  HeadPage head(const KvLayout& layout, int page, int head) const {
    return {key_head(layout, page, head), value_head(layout, page, head)};
  }
  std::byte* key_head(const KvLayout& layout, int page, int head) const {
    return keys + static_cast<size_t>(page) * layout.key_page_bytes() +
           static_cast<size_t>(head) * layout.key_head_bytes();
  }
  std::byte* value_head(const KvLayout& layout, int page, int head) const {
    return values + static_cast<size_t>(page) * layout.value_page_bytes() +
           static_cast<size_t>(head) * layout.value_head_bytes();
  }
};

// The softmax of some query vectors over some positions: largest score, sum of exponentials, weighted values.
struct SoftmaxState {
  float* largest = nullptr;  // [queries]
  float* sum = nullptr;      // [queries]
  float* values = nullptr;   // [queries][padded_dim]
};

// One head's key and value, scales included.
void copy_slot(const KvLayout& layout, const HeadPage& from, int from_slot, const HeadPage& to, int to_slot) noexcept;

// What a row in a tree sees instead of the pages from `first_page` on: its own copies, in the order of positions.
inline constexpr int kTailPages = 2;
struct TailPages {
  int first_page = 1 << 30;
  std::array<HeadPage, kTailPages> pages = {};
};

struct AttendCall {
  const KvLayout* layout = nullptr;
  KvPages pages;
  std::span<const int32_t> page_table;
  TailPages tail;
  int kv_head = 0;
  int range = 0;  // positions [range, range + 1) * kRangeTokens
  int queries = 0;
  const float* const* q = nullptr;  // [queries], each head_dim floats
  const int32_t* first = nullptr;   // [queries]: first and last position each one sees
  const int32_t* last = nullptr;
  float scale = 1;
  float softcap = 0;
  float* scores = nullptr;  // scratch [kMaxQueries][64]
  SoftmaxState state;       // written
};

struct AttentionKernels {
  void (*append)(const KvLayout& layout, const KvPages& pages, int page, int slot, int kv_head, const float* k,
                 const float* v) noexcept;
  void (*attend)(const AttendCall& call) noexcept;
  // into = into and from together, for one query.
  void (*merge)(float largest, float sum, const float* values, int padded_dim, float& into_largest, float& into_sum,
                float* into_values) noexcept;
};
const AttentionKernels& attention_kernels(Isa isa);

}  // namespace edgewise::cpu
