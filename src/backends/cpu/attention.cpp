#include "backends/cpu/attention.h"

#include "backends/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/attention.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "hwy/contrib/math/math-inl.h"

#include "backends/cpu/panel-inl.h"

HWY_BEFORE_NAMESPACE();
namespace edgewise::cpu::HWY_NAMESPACE {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr int kTileVectors = 4;  // vectors of positions or of columns a tile holds for each query
constexpr int kTileQueries = kLanes == 16 ? 6 : 2;

// How elements of the cache are read and written; another type of cache is another of these.
struct CacheF32 {
  using Element = float;
  static HWY_INLINE VF load(const float* from) { return hn::LoadU(DF(), from); }
  static HWY_INLINE float store(float value) { return value; }
};
struct CacheF16 {
  using Element = uint16_t;
  static HWY_INLINE VF load(const uint16_t* from) { return load_f16(from); }
  static HWY_INLINE uint16_t store(float value) { return float_to_f16(value); }
};
struct CacheBF16 {
  using Element = uint16_t;
  static HWY_INLINE VF load(const uint16_t* from) { return load_bf16(from); }
  static HWY_INLINE uint16_t store(float value) { return float_to_bf16(value); }
};
struct CacheI8 {
  using Element = int8_t;
  static constexpr float kUnit = 1;  // what a loaded 1 stands for, in units of kv_scale()
  static HWY_INLINE VF load(const int8_t* from) {
    const hn::Rebind<int8_t, DF> di8;
    const hn::Rebind<int32_t, DF> di32;
    return hn::ConvertTo(DF(), hn::PromoteTo(di32, hn::LoadU(di8, from)));
  }
  static HWY_INLINE int8_t store(float value) { return kv_int8_code(value); }
};
struct CacheF8 {
  using Element = uint8_t;
  static constexpr float kUnit = 256;
  static HWY_INLINE VF load(const uint8_t* from) { return load_f8_scaled(from); }
  static HWY_INLINE uint8_t store(float value) { return float_to_f8e4m3(value); }
};
template <typename Cache>
constexpr bool kScaled = sizeof(typename Cache::Element) == 1;

// Stores one head's vector, `step` elements apart; returns the scale to keep beside it.
template <typename Cache>
HWY_INLINE float store_head(DType dtype, const float* from, int count, typename Cache::Element* to, int step) {
  if constexpr (kScaled<Cache>) {
    const float scale = kv_scale(dtype, {from, static_cast<size_t>(count)});
    const float inverse = 1.0f / scale;
    for (int i = 0; i < count; ++i) to[i * step] = Cache::store(from[i] * inverse);
    return scale * Cache::kUnit;
  } else {
    for (int i = 0; i < count; ++i) to[i * step] = Cache::store(from[i]);
    return 1.0f;
  }
}

template <typename Cache>
void append(const KvLayout& layout, const KvPages& pages, int page, int slot, int kv_head, const float* k,
            const float* v) {
  using Element = typename Cache::Element;
  std::byte* key_head = pages.key_head(layout, page, kv_head);
  std::byte* value_head = pages.value_head(layout, page, kv_head);
  auto* keys = reinterpret_cast<Element*>(key_head) + slot;
  auto* values = reinterpret_cast<Element*>(value_head) + slot * layout.padded_dim;
  const float key_scale = store_head<Cache>(layout.dtype, k, layout.head_dim, keys, kPageTokens);
  const float value_scale = store_head<Cache>(layout.dtype, v, layout.head_dim, values, 1);
  std::fill(values + layout.head_dim, values + layout.padded_dim, Element{});
  if constexpr (kScaled<Cache>) {
    reinterpret_cast<float*>(key_head + layout.key_codes_bytes())[slot] = key_scale;
    reinterpret_cast<float*>(value_head + layout.value_codes_bytes())[slot] = value_scale;
  }
}

// scores[q][64] = q . keys, for a tile of queries.
template <typename Cache, int kQueries>
HWY_INLINE void score_tile(const typename Cache::Element* keys, const float* const* q, int head_dim, float* scores) {
  const DF d;
  for (int column = 0; column < kPageTokens; column += kTileVectors * kLanes) {
    VF sums[kQueries][kTileVectors];
    EDGEWISE_UNROLL for (int i = 0; i < kQueries; ++i) {
      EDGEWISE_UNROLL for (int v = 0; v < kTileVectors; ++v) sums[i][v] = hn::Zero(d);
    }
    for (int j = 0; j < head_dim; ++j) {
      VF key[kTileVectors];
      EDGEWISE_UNROLL for (int v = 0; v < kTileVectors; ++v) {
        key[v] = Cache::load(keys + j * kPageTokens + column + v * kLanes);
      }
      EDGEWISE_UNROLL for (int i = 0; i < kQueries; ++i) {
        const VF value = hn::Set(d, q[i][j]);
        EDGEWISE_UNROLL for (int v = 0; v < kTileVectors; ++v) sums[i][v] = hn::MulAdd(key[v], value, sums[i][v]);
      }
    }
    EDGEWISE_UNROLL for (int i = 0; i < kQueries; ++i) {
      EDGEWISE_UNROLL for (int v = 0; v < kTileVectors; ++v) {
        hn::StoreU(sums[i][v], d, scores + i * kPageTokens + column + v * kLanes);
      }
    }
  }
}

// values[q] += sum over positions [begin, end) of the page of weight[q][position] * value.
template <typename Cache, int kQueries, int kVectors>
HWY_INLINE void value_tile(const typename Cache::Element* values, int stride, const float* weights, int begin, int end,
                           float* out) {
  const DF d;
  VF sums[kQueries][kVectors];
  EDGEWISE_UNROLL for (int i = 0; i < kQueries; ++i) {
    EDGEWISE_UNROLL for (int v = 0; v < kVectors; ++v) sums[i][v] = hn::LoadU(d, out + i * stride + v * kLanes);
  }
  for (int j = begin; j < end; ++j) {
    VF value[kVectors];
    EDGEWISE_UNROLL for (int v = 0; v < kVectors; ++v) value[v] = Cache::load(values + j * stride + v * kLanes);
    EDGEWISE_UNROLL for (int i = 0; i < kQueries; ++i) {
      const VF weight = hn::Set(d, weights[i * kPageTokens + j]);
      EDGEWISE_UNROLL for (int v = 0; v < kVectors; ++v) sums[i][v] = hn::MulAdd(value[v], weight, sums[i][v]);
    }
  }
  EDGEWISE_UNROLL for (int i = 0; i < kQueries; ++i) {
    EDGEWISE_UNROLL for (int v = 0; v < kVectors; ++v) hn::StoreU(sums[i][v], d, out + i * stride + v * kLanes);
  }
}

template <typename Cache, int kQueries>
HWY_INLINE void value_columns(const typename Cache::Element* values, int stride, const float* weights, int begin,
                              int end, float* out) {
  int column = 0;
  for (; column + kTileVectors * kLanes <= stride; column += kTileVectors * kLanes) {
    value_tile<Cache, kQueries, kTileVectors>(values + column, stride, weights, begin, end, out + column);
  }
  for (; column < stride; column += kLanes) {
    value_tile<Cache, kQueries, 1>(values + column, stride, weights, begin, end, out + column);
  }
}

HWY_INLINE float exponential(float x) {
  return x == kMinusInfinity ? 0.0f : hn::GetLane(hn::Exp(DF(), hn::Set(DF(), x)));
}

// Turns one query's raw scores of a page into weights and rescales its state. Positions outside [begin, end)
// of the page get weight 0. Scales [64] of the page's keys and values, null in caches without.
HWY_INLINE void softmax_page(const AttendCall& call, int query, int begin, int end, const float* key_scales,
                             const float* value_scales) {
  const DF d;
  float* scores = call.scores + query * kPageTokens;
  const VF low = hn::Set(d, static_cast<float>(begin));
  const VF high = hn::Set(d, static_cast<float>(end));
  VF largest = hn::Set(d, kMinusInfinity);
  for (int column = 0; column < kPageTokens; column += kLanes) {
    VF score = hn::Mul(hn::LoadU(d, scores + column), hn::Set(d, call.scale));
    if (key_scales != nullptr) score = hn::Mul(score, hn::LoadU(d, key_scales + column));
    if (call.softcap > 0) {
      const VF cap = hn::Set(d, call.softcap);
      score = hn::Mul(cap, hn::Tanh(d, hn::Div(score, cap)));
    }
    const VF position = hn::Iota(d, static_cast<float>(column));
    const auto seen = hn::And(hn::Ge(position, low), hn::Lt(position, high));
    score = hn::IfThenElse(seen, score, hn::Set(d, kMinusInfinity));
    hn::StoreU(score, d, scores + column);
    largest = hn::Max(largest, score);
  }
  const float before = call.state.largest[query];
  const float now = std::max(before, hn::GetLane(hn::MaxOfLanes(d, largest)));
  const float shrink = exponential(before - now);
  VF sum = hn::Zero(d);
  for (int column = 0; column < kPageTokens; column += kLanes) {
    const VF score = hn::LoadU(d, scores + column);
    const auto seen = hn::Gt(score, hn::Set(d, kMinusInfinity));
    const VF weight = hn::IfThenElseZero(seen, hn::Exp(d, hn::IfThenElseZero(seen, hn::Sub(score, hn::Set(d, now)))));
    sum = hn::Add(sum, weight);
    const VF scaled = value_scales == nullptr ? weight : hn::Mul(weight, hn::LoadU(d, value_scales + column));
    hn::StoreU(scaled, d, scores + column);
  }
  call.state.largest[query] = now;
  call.state.sum[query] = call.state.sum[query] * shrink + hn::GetLane(hn::SumOfLanes(d, sum));
  if (shrink == 1.0f) return;
  float* values = call.state.values + query * call.layout->padded_dim;
  for (int i = 0; i < call.layout->padded_dim; i += kLanes) {
    hn::StoreU(hn::Mul(hn::LoadU(d, values + i), hn::Set(d, shrink)), d, values + i);
  }
}

template <typename Cache>
void attend_page(const AttendCall& call, int page_index) {
  const KvLayout& layout = *call.layout;
  const int start = page_index * kPageTokens;
  int begin = kPageTokens;
  int end = 0;
  for (int i = 0; i < call.queries; ++i) {
    begin = std::min(begin, std::max(call.first[i] - start, 0));
    end = std::max(end, std::min(call.last[i] + 1 - start, kPageTokens));
  }
  if (begin >= end) return;
  using Element = typename Cache::Element;
  const HeadPage head = page_index >= call.tail.first_page
                            ? call.tail.pages[static_cast<size_t>(page_index - call.tail.first_page)]
                            : call.pages.head(layout, call.page_table[static_cast<size_t>(page_index)], call.kv_head);
  const auto* keys = reinterpret_cast<const Element*>(head.keys);
  const auto* values = reinterpret_cast<const Element*>(head.values);
  const float* key_scales = nullptr;
  const float* value_scales = nullptr;
  if constexpr (kScaled<Cache>) {
    key_scales = reinterpret_cast<const float*>(head.keys + layout.key_codes_bytes());
    value_scales = reinterpret_cast<const float*>(head.values + layout.value_codes_bytes());
  }
  int i = 0;
  for (; i + kTileQueries <= call.queries; i += kTileQueries) {
    score_tile<Cache, kTileQueries>(keys, call.q + i, layout.head_dim, call.scores + i * kPageTokens);
  }
  for (; i + 2 <= call.queries; i += 2)
    score_tile<Cache, 2>(keys, call.q + i, layout.head_dim, call.scores + i * kPageTokens);
  for (; i < call.queries; ++i) score_tile<Cache, 1>(keys, call.q + i, layout.head_dim, call.scores + i * kPageTokens);
  for (i = 0; i < call.queries; ++i) {
    const int low = std::max(call.first[i] - start, 0);
    const int high = std::min(call.last[i] + 1 - start, kPageTokens);
    if (low < high) {
      softmax_page(call, i, low, high, key_scales, value_scales);
    } else {
      std::fill_n(call.scores + i * kPageTokens, kPageTokens, 0.0f);
    }
  }
  const int stride = layout.padded_dim;
  const auto run = [&](auto queries) HWY_ATTR {
    constexpr int kQueries = decltype(queries)::value;
    value_columns<Cache, kQueries>(values, stride, call.scores + i * kPageTokens, begin, end,
                                   call.state.values + i * stride);
    i += kQueries;
  };
  i = 0;
  while (i + kTileQueries <= call.queries) run(std::integral_constant<int, kTileQueries>());
  while (i + 2 <= call.queries) run(std::integral_constant<int, 2>());
  while (i < call.queries) run(std::integral_constant<int, 1>());
}

template <typename Cache>
void attend(const AttendCall& call) {
  std::fill_n(call.state.largest, call.queries, kMinusInfinity);
  std::fill_n(call.state.sum, call.queries, 0.0f);
  std::fill_n(call.state.values, call.queries * call.layout->padded_dim, 0.0f);
  constexpr int kPages = kRangeTokens / kPageTokens;
  for (int page = call.range * kPages; page < (call.range + 1) * kPages; ++page) attend_page<Cache>(call, page);
}

// `function` with the element type of the cache.
template <typename Function>
void with_cache(DType dtype, const Function& function) {
  switch (dtype) {
    case DType::kF32:
      return function(CacheF32());
    case DType::kF16:
      return function(CacheF16());
    case DType::kI8:
      return function(CacheI8());
    case DType::kF8E4M3:
      return function(CacheF8());
    default:
      return function(CacheBF16());
  }
}

void append_any(const KvLayout& layout, const KvPages& pages, int page, int slot, int kv_head, const float* k,
                const float* v) noexcept {
  with_cache(layout.dtype, [&](auto cache) { append<decltype(cache)>(layout, pages, page, slot, kv_head, k, v); });
}

void attend_any(const AttendCall& call) noexcept {
  with_cache(call.layout->dtype, [&](auto cache) { attend<decltype(cache)>(call); });
}

void merge(float largest, float sum, const float* values, int padded_dim, float& into_largest, float& into_sum,
           float* into_values) noexcept {
  if (largest == kMinusInfinity) return;
  const DF d;
  const float now = std::max(largest, into_largest);
  const float keep = exponential(into_largest - now);
  const float bring = exponential(largest - now);
  into_largest = now;
  into_sum = into_sum * keep + sum * bring;
  for (int i = 0; i < padded_dim; i += kLanes) {
    const VF old = hn::Mul(hn::LoadU(d, into_values + i), hn::Set(d, keep));
    hn::StoreU(hn::MulAdd(hn::LoadU(d, values + i), hn::Set(d, bring), old), d, into_values + i);
  }
}

const AttentionKernels& table() {
  static constexpr AttentionKernels kTable = {append_any, attend_any, merge};
  return kTable;
}

}  // namespace
}  // namespace edgewise::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace edgewise::cpu {

KvLayout KvLayout::make(DType dtype, int kv_heads, int head_dim) {
  KvLayout layout;
  layout.dtype = dtype;
  layout.kv_heads = kv_heads;
  layout.head_dim = head_dim;
  layout.padded_dim = (head_dim + 15) / 16 * 16;
  layout.element = byte_size(dtype, 1);
  return layout;
}

void copy_slot(const KvLayout& layout, const HeadPage& from, int from_slot, const HeadPage& to, int to_slot) noexcept {
  const size_t element = layout.element;
  const auto at = [](std::byte* base, size_t index, size_t size) { return base + index * size; };
  const auto source = static_cast<size_t>(from_slot);
  const auto target = static_cast<size_t>(to_slot);
  for (size_t i = 0; i < static_cast<size_t>(layout.head_dim); ++i) {
    std::memcpy(at(to.keys, i * kPageTokens + target, element), at(from.keys, i * kPageTokens + source, element),
                element);
  }
  const size_t row = static_cast<size_t>(layout.padded_dim) * element;
  std::memcpy(at(to.values, target, row), at(from.values, source, row), row);
  if (layout.scale_bytes() == 0) return;
  std::memcpy(at(to.keys + layout.key_codes_bytes(), target, sizeof(float)),
              at(from.keys + layout.key_codes_bytes(), source, sizeof(float)), sizeof(float));
  std::memcpy(at(to.values + layout.value_codes_bytes(), target, sizeof(float)),
              at(from.values + layout.value_codes_bytes(), source, sizeof(float)), sizeof(float));
}

const AttentionKernels& attention_kernels(Isa isa) { return EDGEWISE_PICK(isa, table)(); }

}  // namespace edgewise::cpu
#endif
