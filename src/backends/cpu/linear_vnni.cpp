// Linear for int8 and int4 weights by vpdpbusd: unsigned weights times signed activations, four products a
// lane.
//
// A group's integer sum is exact, and groups are added in ascending order as floats, so tiles do not matter.
#if defined(__x86_64__)

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own intrinsics, its bug 105593
#endif
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "backends/cpu/kernels.h"

#define EDGEWISE_UNROLL _Pragma("GCC unroll 32")
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")
#endif

namespace edgewise::cpu {
namespace {

#define EDGEWISE_INLINE inline __attribute__((always_inline))

EDGEWISE_INLINE __m512 load_scales(ScaleKind kind, const std::byte* base, int64_t block) {
  const int64_t at = block * kPanel;
  if (kind == ScaleKind::kF32) return _mm512_loadu_ps(reinterpret_cast<const float*>(base) + at);
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(base + at * 2));
  if (kind == ScaleKind::kF16) return _mm512_cvtph_ps(half);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

EDGEWISE_INLINE __m512 load_zeros(const PackedFormat& format, const std::byte* base, int64_t block) {
  if (!format.has_zeros) return _mm512_set1_ps(static_cast<float>(format.fixed_zero));
  const auto* zeros = reinterpret_cast<const __m128i*>(base + format.zeros_offset + block * kPanel);
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(zeros)));
}

EDGEWISE_INLINE __m512i broadcast_quad(const int8_t* from) {
  int32_t bits;
  std::memcpy(&bits, from, sizeof(bits));
  return _mm512_set1_epi32(bits);
}

// sum += products of unsigned `w` and signed `x`. As an instruction, since GCC 12 copies the accumulator of
// its intrinsic to another register and back in every round, which halves the speed.
EDGEWISE_INLINE void add_products(__m512i& sum, __m512i w, __m512i x) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
}

// Integer sums of one group: sums[t][p] += weights of panel p times token t.
template <Encoding E, int kTokens, int kPanels>
EDGEWISE_INLINE void sum_group(const uint8_t* weights, size_t panel_bytes, const int8_t* x, int64_t x_stride,
                               int64_t count, __m512i (&sums)[kTokens][kPanels]) {
  constexpr int kStep = E == Encoding::kInt4 ? 8 : 4;
  for (int64_t k = 0; k < count; k += kStep, weights += 64, x += kStep) {
    EDGEWISE_UNROLL for (int p = 0; p < kPanels; ++p) {
      const __m512i w = _mm512_loadu_si512(weights + static_cast<size_t>(p) * panel_bytes);
      if constexpr (E == Encoding::kInt8) {
        EDGEWISE_UNROLL for (int t = 0; t < kTokens; ++t) {
          add_products(sums[t][p], w, broadcast_quad(x + t * x_stride));
        }
      } else {
        const __m512i mask = _mm512_set1_epi8(15);
        const __m512i low = _mm512_and_si512(w, mask);
        const __m512i high = _mm512_and_si512(_mm512_srli_epi16(w, 4), mask);
        EDGEWISE_UNROLL for (int t = 0; t < kTokens; ++t) {
          add_products(sums[t][p], low, broadcast_quad(x + t * x_stride));
          add_products(sums[t][p], high, broadcast_quad(x + t * x_stride + 4));
        }
      }
    }
  }
}

EDGEWISE_INLINE void store(const LinearCall& call, int64_t panel, int token, __m512 value) {
  const PackedFormat& format = *call.format;
  const int64_t row = panel * kPanel;
  const int64_t known = std::min<int64_t>(format.n - row, kPanel);
  const auto mask = static_cast<__mmask16>((1u << known) - 1u);
  if (format.global_scale != 1.0f) value = _mm512_mul_ps(value, _mm512_set1_ps(format.global_scale));
  if (call.bias != nullptr) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, call.bias + row));
  _mm512_mask_storeu_ps(call.out + token * call.out_stride + row, mask, value);
}

// A run of groups small enough for its weights to stay in the first-level cache while tokens pass by.
struct Chunk {
  int64_t panel;
  int64_t group_begin;
  int64_t group_end;
  float* totals;  // [tokens][kPanels][16], read unless it is the first chunk, written unless it is the last
};

template <int kTokens, int kPanels>
EDGEWISE_INLINE void load_totals(const Chunk& chunk, int token, __m512 (&totals)[kTokens][kPanels]) {
  EDGEWISE_UNROLL for (int t = 0; t < kTokens; ++t) {
    EDGEWISE_UNROLL for (int p = 0; p < kPanels; ++p) {
      totals[t][p] = chunk.group_begin == 0 ? _mm512_setzero_ps()
                                            : _mm512_loadu_ps(chunk.totals + ((token + t) * kPanels + p) * kPanel);
    }
  }
}

template <Encoding E, int kTokens, int kPanels>
void tile(const LinearCall& call, const Chunk& chunk, int token, int first_token) {
  const PackedFormat& format = *call.format;
  const std::byte* base = call.weights + static_cast<size_t>(chunk.panel) * format.panel_bytes;
  const auto* weights = reinterpret_cast<const uint8_t*>(base + format.weights_offset);
  const int8_t* x = call.quantized.q + token * format.k_padded;
  const float* x_scale = call.quantized.scale + token * format.groups;
  const float* x_sum = call.quantized.sum + token * format.groups;
  __m512 totals[kTokens][kPanels];
  load_totals<kTokens, kPanels>(chunk, token - first_token, totals);
  for (int64_t g = chunk.group_begin; g < chunk.group_end; ++g) {
    const int64_t begin = g * format.group;
    const int64_t count = std::min(format.group, format.k_padded - begin);
    __m512i sums[kTokens][kPanels];
    EDGEWISE_UNROLL for (int t = 0; t < kTokens; ++t) {
      EDGEWISE_UNROLL for (int p = 0; p < kPanels; ++p) sums[t][p] = _mm512_setzero_si512();
    }
    sum_group<E, kTokens, kPanels>(weights + begin * (E == Encoding::kInt4 ? 8 : 16), format.panel_bytes, x + begin,
                                   format.k_padded, count, sums);
    const int64_t block = begin / format.block;
    EDGEWISE_UNROLL for (int p = 0; p < kPanels; ++p) {
      const std::byte* at = base + static_cast<size_t>(p) * format.panel_bytes;
      const __m512 scale = load_scales(format.scale, at, block);
      const __m512 zero = load_zeros(format, at, block);
      EDGEWISE_UNROLL for (int t = 0; t < kTokens; ++t) {
        const __m512 sum = _mm512_set1_ps(x_sum[t * format.groups + g]);
        const __m512 exact = _mm512_fnmadd_ps(zero, sum, _mm512_cvtepi32_ps(sums[t][p]));
        const __m512 factor = _mm512_mul_ps(scale, _mm512_set1_ps(x_scale[t * format.groups + g]));
        totals[t][p] = _mm512_fmadd_ps(exact, factor, totals[t][p]);
      }
    }
  }
  EDGEWISE_UNROLL for (int t = 0; t < kTokens; ++t) {
    EDGEWISE_UNROLL for (int p = 0; p < kPanels; ++p) {
      if (chunk.group_end == format.groups) {
        store(call, chunk.panel + p, token + t, totals[t][p]);
      } else {
        _mm512_storeu_ps(chunk.totals + ((token - first_token + t) * kPanels + p) * kPanel, totals[t][p]);
      }
    }
  }
}

constexpr int kTileTokens = 6;
constexpr int kTokensTogether = 96;
constexpr int64_t kChunkBytes = 8 << 10;  // of weights of one panel

template <Encoding E, int kTokens, int kPanels>
void tail(const LinearCall& call, const Chunk& chunk, int token, int first, int end) {
  if constexpr (kTokens > 0) {
    if (end - token == kTokens) return tile<E, kTokens, kPanels>(call, chunk, token, first);
    tail<E, kTokens - 1, kPanels>(call, chunk, token, first, end);
  }
}

template <Encoding E, int kPanels>
void all_tokens(const LinearCall& call, int64_t panel) {
  const PackedFormat& format = *call.format;
  if (call.tokens <= kTileTokens) {
    return tail<E, kTileTokens, kPanels>(call, {panel, 0, format.groups, nullptr}, 0, 0, call.tokens);
  }
  alignas(64) float totals[kTokensTogether * kPanels * kPanel];
  const int64_t group_bytes = format.group * (E == Encoding::kInt4 ? 8 : 16);
  const int64_t step = std::max<int64_t>(1, kChunkBytes / group_bytes);
  for (int first = 0; first < call.tokens; first += kTokensTogether) {
    const int end = std::min(first + kTokensTogether, call.tokens);
    for (int64_t g = 0; g < format.groups; g += step) {
      const Chunk chunk{panel, g, std::min(g + step, format.groups), totals};
      int token = first;
      for (; token + kTileTokens <= end; token += kTileTokens) tile<E, kTileTokens, kPanels>(call, chunk, token, first);
      tail<E, kTileTokens - 1, kPanels>(call, chunk, token, first, end);
    }
  }
}

template <Encoding E>
void linear(const LinearCall& call) noexcept {
  int64_t panel = call.panel_begin;
  for (; panel + 2 <= call.panel_end; panel += 2) all_tokens<E, 2>(call, panel);
  if (panel < call.panel_end) all_tokens<E, 1>(call, panel);
}

}  // namespace

LinearKernel vnni_linear_kernel(Encoding encoding);
LinearKernel vnni_linear_kernel(Encoding encoding) {
  return encoding == Encoding::kInt8 ? linear<Encoding::kInt8> : linear<Encoding::kInt4>;
}

}  // namespace edgewise::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // __x86_64__
