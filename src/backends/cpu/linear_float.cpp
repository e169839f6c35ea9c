// Linear for weights that are multiplied as float32: f32, f16, bf16, f8e4m3, f4e2m1.
//
// Every output is one chain of fused multiply-adds over ascending k, in both walks, so the two walks and
// every tile size give the same bits.
#include "backends/cpu/kernels.h"
#include "backends/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/linear_float.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include <algorithm>
#include <cstring>

#include "backends/cpu/panel-inl.h"

HWY_BEFORE_NAMESPACE();
namespace edgewise::cpu::HWY_NAMESPACE {
namespace {

// What decode() leaves out of the value and the scale has to bring in.
template <Encoding E>
constexpr float kDecodeFactor = E == Encoding::kF8E4M3                 ? 256.0f
                                : E == Encoding::kF4E2M1&& kLanes == 4 ? 16384.0f
                                                                       : 1.0f;

// 16 rows' nibbles (the low ones of 32-bit lanes; higher bits are ignored) as values over kDecodeFactor.
template <class V>
HWY_INLINE VF values_of_nibbles(V nibbles) {
  const DF d;
#if HWY_TARGET == HWY_AVX3
  alignas(64) static constexpr float kValues[16] = {0,     0.5f,  1,  1.5f,  2,  3,  4,  6,
                                                    -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
  return VF{_mm512_permutexvar_ps(nibbles.raw, hn::Load(d, kValues).raw)};
#elif HWY_TARGET == HWY_AVX2
  alignas(32) static constexpr float kValues[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  const VF magnitude{_mm256_permutevar8x32_ps(hn::Load(d, kValues).raw, nibbles.raw)};
  const hn::Rebind<uint32_t, DF> du;
  return hn::Or(magnitude, hn::BitCast(d, hn::ShiftLeft<28>(hn::And(nibbles, hn::Set(du, 8)))));
#else
  const hn::Rebind<uint32_t, DF> du;
  const hn::Rebind<uint16_t, DF> du16;
  const hn::Rebind<hwy::float16_t, DF> dh;
  const auto sign = hn::ShiftLeft<12>(hn::And(nibbles, hn::Set(du, 8)));
  const auto magnitude = hn::ShiftLeft<9>(hn::And(nibbles, hn::Set(du, 7)));
  const auto bits = hn::DemoteTo(du16, hn::BitCast(hn::Rebind<int32_t, DF>(), hn::Or(sign, magnitude)));
  return hn::PromoteTo(d, hn::BitCast(dh, bits));
#endif
}

HWY_INLINE auto load_nibbles(const uint8_t* weights, int64_t k, int part) {
  const hn::Rebind<uint32_t, DF> du;
  return hn::LoadU(du, reinterpret_cast<const uint32_t*>(weights) + k / 8 * kPanel + part * kLanes);
}

// The weights of element k for the rows of one part of a panel.
template <Encoding E>
HWY_INLINE VF decode(const uint8_t* weights, int64_t k, int part) {
  const DF d;
  const int64_t at = k * kPanel + part * kLanes;
  if constexpr (E == Encoding::kF32) {
    return hn::LoadU(d, reinterpret_cast<const float*>(weights) + at);
  } else if constexpr (E == Encoding::kF16) {
    return load_f16(reinterpret_cast<const uint16_t*>(weights) + at);
  } else if constexpr (E == Encoding::kBF16) {
    return load_bf16(reinterpret_cast<const uint16_t*>(weights) + at);
  } else if constexpr (E == Encoding::kF8E4M3) {
    return load_f8_scaled(weights + at);
  } else {
    return values_of_nibbles(hn::ShiftRightSame(load_nibbles(weights, k, part), static_cast<int>(k % 8) * 4));
  }
}

// decode() of kStep<E> elements from k on, a multiple of kStep<E>: cheaper together.
template <Encoding E>
constexpr int kStep = E == Encoding::kF4E2M1   ? 8
                      : E == Encoding::kF8E4M3 ? 2
                                               : 1;

template <Encoding E>
HWY_INLINE void decode_step(const uint8_t* weights, int64_t k, int part, VF* out) {
  if constexpr (E == Encoding::kF4E2M1) {
    const auto words = load_nibbles(weights, k, part);
    out[0] = values_of_nibbles(words);
    out[1] = values_of_nibbles(hn::ShiftRight<4>(words));
    out[2] = values_of_nibbles(hn::ShiftRight<8>(words));
    out[3] = values_of_nibbles(hn::ShiftRight<12>(words));
    out[4] = values_of_nibbles(hn::ShiftRight<16>(words));
    out[5] = values_of_nibbles(hn::ShiftRight<20>(words));
    out[6] = values_of_nibbles(hn::ShiftRight<24>(words));
    out[7] = values_of_nibbles(hn::ShiftRight<28>(words));
  } else if constexpr (E == Encoding::kF8E4M3) {
#if HWY_TARGET == HWY_AVX3
    // load_f8_scaled() on 32 rows at once.
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + k * kPanel));
    const __m512i fields = _mm512_srai_epi16(_mm512_slli_epi16(_mm512_cvtepu8_epi16(bytes), 8), 1);
    const __m512i halves = _mm512_and_si512(fields, _mm512_set1_epi16(static_cast<int16_t>(0xbf80)));
    out[0] = VF{_mm512_cvtph_ps(_mm512_castsi512_si256(halves))};
    out[1] = VF{_mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1))};
#else
    out[0] = decode<E>(weights, k, part);
    out[1] = decode<E>(weights, k + 1, part);
#endif
  } else {
    out[0] = decode<E>(weights, k, part);
  }
}

// Multiplies by the row's scale where there is one a row, by the global scale, adds the bias and writes.
template <Encoding E>
HWY_INLINE void finish_panel(const LinearCall& call, int64_t panel, int token, const VF* sums) {
  const DF d;
  const PackedFormat& format = *call.format;
  VF factor = hn::Set(d, format.blocks > 1 ? 1.0f : kDecodeFactor<E>);
  for (int part = 0; part < kParts; ++part) {
    VF value = sums[part];
    if (format.blocks == 1) {
      const std::byte* scales = call.weights + static_cast<size_t>(panel) * format.panel_bytes;
      value = hn::Mul(value, hn::Mul(load_scales(format.scale, scales, 0, part), factor));
    } else if (kDecodeFactor<E> != 1.0f) {
      value = hn::Mul(value, factor);
    }
    store_part(call, panel, token, part, value);
  }
}

template <Encoding E, bool kBlockScales, int kTokens, int kPanels>
HWY_INLINE void direct_tile(const LinearCall& call, int64_t panel, int token) {
  const DF d;
  const PackedFormat& format = *call.format;
  constexpr int kVectors = kPanels * kParts;
  VF sums[kTokens][kVectors];
  EDGEWISE_UNROLL for (int t = 0; t < kTokens; ++t) {
    EDGEWISE_UNROLL for (int v = 0; v < kVectors; ++v) sums[t][v] = hn::Zero(d);
  }
  const std::byte* base = call.weights + static_cast<size_t>(panel) * format.panel_bytes;
  const auto* weights = reinterpret_cast<const uint8_t*>(base + format.weights_offset);
  const float* x = call.x + token * call.x_stride;
  const int64_t blocks = kBlockScales ? format.blocks : 1;
  const int64_t block = kBlockScales ? format.block : format.k;
  VF scales[kVectors];
  const auto add_products = [&](VF w, int64_t k, int v) HWY_ATTR {
    if constexpr (kBlockScales) w = hn::Mul(w, scales[v]);
    EDGEWISE_UNROLL for (int t = 0; t < kTokens; ++t) {
      sums[t][v] = hn::MulAdd(w, hn::Set(d, x[t * call.x_stride + k]), sums[t][v]);
    }
  };
  for (int64_t b = 0; b < blocks; ++b) {
    if constexpr (kBlockScales) {
      EDGEWISE_UNROLL for (int v = 0; v < kVectors; ++v) {
        const std::byte* at = base + static_cast<size_t>(v / kParts) * format.panel_bytes;
        scales[v] = hn::Mul(load_scales(format.scale, at, b, v % kParts), hn::Set(d, kDecodeFactor<E>));
      }
    }
    const int64_t end = std::min((b + 1) * block, format.k);
    for (int64_t k = b * block; k < end;) {
      const bool step = kStep<E> > 1 && k % kStep<E> == 0 && k + kStep<E> <= end;
      const int count = step ? kStep<E> : 1;
      if (step) {
        EDGEWISE_UNROLL for (int v = 0; v < kVectors; ++v) {
          VF w[kStep<E>];
          decode_step<E>(weights + static_cast<size_t>(v / kParts) * format.panel_bytes, k, v % kParts, w);
          EDGEWISE_UNROLL for (int i = 0; i < kStep<E>; ++i) add_products(w[i], k + i, v);
        }
      } else {
        EDGEWISE_UNROLL for (int v = 0; v < kVectors; ++v) {
          add_products(
              decode<E>(weights + static_cast<size_t>(v / kParts) * format.panel_bytes, k, v % kParts), k, v);
        }
      }
      k += count;
    }
  }
  EDGEWISE_UNROLL for (int t = 0; t < kTokens; ++t) {
    EDGEWISE_UNROLL for (int p = 0; p < kPanels; ++p) {
      finish_panel<E>(call, panel + p, token + t, sums[t] + p * kParts);
    }
  }
}

template <Encoding E, bool kBlockScales, int kPanels>
void direct_tokens(const LinearCall& call, int64_t panel) {
  int token = 0;
  for (; token + 4 <= call.tokens; token += 4) direct_tile<E, kBlockScales, 4, kPanels>(call, panel, token);
  if (token + 2 <= call.tokens) {
    direct_tile<E, kBlockScales, 2, kPanels>(call, panel, token);
    token += 2;
  }
  if (token < call.tokens) direct_tile<E, kBlockScales, 1, kPanels>(call, panel, token);
}

template <Encoding E, bool kBlockScales>
void direct(const LinearCall& call) {
  constexpr int kTogether = kLanes == 16 ? 2 : 1;
  int64_t panel = call.panel_begin;
  for (; panel + kTogether <= call.panel_end; panel += kTogether) {
    direct_tokens<E, kBlockScales, kTogether>(call, panel);
  }
  for (; panel < call.panel_end; ++panel) direct_tokens<E, kBlockScales, 1>(call, panel);
}

// The blocked walk: registers hold kTileTokens x kTilePanels panels of sums.
constexpr int kTilePanels = kLanes == 16 ? 2 : 1;
constexpr int kTileTokens = kLanes == 16 ? 12 : kLanes == 8 ? 6 : HWY_TARGET == HWY_NEON ? 6 : 2;
constexpr int kTileColumns = kTilePanels * kPanel;
constexpr int kChunk = 128;          // of k, decoded at a time: 16 KiB, in the first-level cache
constexpr int kTokensTogether = 96;  // tokens whose activations for a chunk wait in the second-level cache
constexpr int kTilesTogether = 8;    // tiles of panels that share those
constexpr int kRowStride = kChunk + kPanel;

template <Encoding E>
void decode_chunk(const LinearCall& call, int64_t panel, int panels, int64_t begin, int64_t end, float* out) {
  const DF d;
  const PackedFormat& format = *call.format;
  const bool block_scales = format.blocks > 1;
  for (int p = 0; p < panels; ++p) {
    const std::byte* base = call.weights + static_cast<size_t>(panel + p) * format.panel_bytes;
    const auto* weights = reinterpret_cast<const uint8_t*>(base + format.weights_offset);
    for (int64_t k = begin; k < end;) {
      const int64_t stop = block_scales ? std::min((k / format.block + 1) * format.block, end) : end;
      for (int part = 0; part < kParts; ++part) {
        VF scale = hn::Set(d, 1.0f);
        if (block_scales) {
          scale =
              hn::Mul(load_scales(format.scale, base, k / format.block, part), hn::Set(d, kDecodeFactor<E>));
        }
        float* to = out + (k - begin) * kTileColumns + p * kPanel + part * kLanes;
        for (int64_t i = k; i < stop;) {
          VF w[kStep<E>];
          const bool step = i % kStep<E> == 0 && i + kStep<E> <= stop;
          if (step) {
            decode_step<E>(weights, i, part, w);
          } else {
            w[0] = decode<E>(weights, i, part);
          }
          const int count = step ? kStep<E> : 1;
          for (int j = 0; j < count; ++j, ++i, to += kTileColumns) {
            hn::StoreU(block_scales ? hn::Mul(w[j], scale) : w[j], d, to);
          }
        }
      }
      k = stop;
    }
  }
}

template <int kTokens>
HWY_INLINE void blocked_tile(const float* weights, const float* x, int64_t count, float* sums) {
  const DF d;
  constexpr int kVectors = kTilePanels * kParts;
  VF acc[kTokens][kVectors];
  EDGEWISE_UNROLL for (int t = 0; t < kTokens; ++t) {
    EDGEWISE_UNROLL for (int v = 0; v < kVectors; ++v) acc[t][v] =
        hn::LoadU(d, sums + t * kTileColumns + v * kLanes);
  }
  for (int64_t k = 0; k < count; ++k) {
    VF w[kVectors];
    EDGEWISE_UNROLL for (int v = 0; v < kVectors; ++v) w[v] =
        hn::LoadU(d, weights + k * kTileColumns + v * kLanes);
    EDGEWISE_UNROLL for (int t = 0; t < kTokens; ++t) {
      const VF value = hn::Set(d, x[t * kRowStride + k]);
      EDGEWISE_UNROLL for (int v = 0; v < kVectors; ++v) acc[t][v] = hn::MulAdd(w[v], value, acc[t][v]);
    }
  }
  EDGEWISE_UNROLL for (int t = 0; t < kTokens; ++t) {
    EDGEWISE_UNROLL for (int v = 0; v < kVectors; ++v)
        hn::StoreU(acc[t][v], d, sums + t * kTileColumns + v * kLanes);
  }
}

template <int kTokens>
void blocked_tail(const float* weights, const float* x, int64_t count, int tokens, float* sums) {
  if constexpr (kTokens > 0) {
    if (tokens == kTokens) return blocked_tile<kTokens>(weights, x, count, sums);
    blocked_tail<kTokens - 1>(weights, x, count, tokens, sums);
  }
}

// What the blocked walk works in; about 170 KiB of stack.
struct Scratch {
  alignas(64) float decoded[kChunk * kTileColumns];
  // Rows whose length is a power of two would all fall on the same few sets of the caches: they are copied.
  alignas(64) float rows[kTokensTogether * kRowStride];
  alignas(64) float sums[kTilesTogether][kTokensTogether * kTileColumns];
};

void copy_rows(const LinearCall& call, int first, int tokens, int64_t k, int64_t count, Scratch& scratch) {
  for (int t = 0; t < tokens; ++t) {
    std::memcpy(scratch.rows + t * kRowStride, call.x + (first + t) * call.x_stride + k,
                static_cast<size_t>(count) * sizeof(float));
  }
}

void multiply_chunk(const Scratch& scratch, int tokens, int64_t count, float* sums) {
  int t = 0;
  for (; t + kTileTokens <= tokens; t += kTileTokens) {
    blocked_tile<kTileTokens>(scratch.decoded, scratch.rows + t * kRowStride, count, sums + t * kTileColumns);
  }
  blocked_tail<kTileTokens - 1>(scratch.decoded, scratch.rows + t * kRowStride, count, tokens - t,
                                sums + t * kTileColumns);
}

template <Encoding E>
void finish_tile(const LinearCall& call, int64_t panel, int panels, int first, int tokens,
                 const float* sums) {
  for (int t = 0; t < tokens; ++t) {
    for (int p = 0; p < panels; ++p) {
      VF values[kParts];
      for (int part = 0; part < kParts; ++part) {
        values[part] = hn::LoadU(DF(), sums + t * kTileColumns + p * kPanel + part * kLanes);
      }
      finish_panel<E>(call, panel + p, first + t, values);
    }
  }
}

// Panels [panel, end), at most kTilesTogether tiles, for tokens [first, first + tokens).
template <Encoding E>
void blocked_part(const LinearCall& call, int64_t panel, int64_t end, int first, int tokens,
                  Scratch& scratch) {
  const auto panels_of = [&](int64_t at) {
    return static_cast<int>(std::min<int64_t>(kTilePanels, end - at));
  };
  const int tiles = static_cast<int>((end - panel + kTilePanels - 1) / kTilePanels);
  for (int i = 0; i < tiles; ++i) {
    std::memset(scratch.sums[i], 0, sizeof(float) * static_cast<size_t>(tokens * kTileColumns));
  }
  for (int64_t k = 0; k < call.format->k; k += kChunk) {
    const int64_t count = std::min<int64_t>(kChunk, call.format->k - k);
    copy_rows(call, first, tokens, k, count, scratch);
    for (int i = 0; i < tiles; ++i) {
      const int64_t at = panel + i * kTilePanels;
      decode_chunk<E>(call, at, panels_of(at), k, k + count, scratch.decoded);
      multiply_chunk(scratch, tokens, count, scratch.sums[i]);
    }
  }
  for (int i = 0; i < tiles; ++i) {
    const int64_t at = panel + i * kTilePanels;
    finish_tile<E>(call, at, panels_of(at), first, tokens, scratch.sums[i]);
  }
}

template <Encoding E>
void blocked(const LinearCall& call) {
  Scratch scratch;
  // Columns of panels that a last, narrow tile lacks are multiplied all the same and never stored.
  std::memset(scratch.decoded, 0, sizeof(scratch.decoded));
  constexpr int kPanelsTogether = kTilesTogether * kTilePanels;
  for (int64_t panel = call.panel_begin; panel < call.panel_end; panel += kPanelsTogether) {
    const int64_t end = std::min(panel + kPanelsTogether, call.panel_end);
    for (int first = 0; first < call.tokens; first += kTokensTogether) {
      blocked_part<E>(call, panel, end, first, std::min(kTokensTogether, call.tokens - first), scratch);
    }
  }
}

template <Encoding E>
void linear(const LinearCall& call) noexcept {
  if (call.walk == Walk::kBlocked) return blocked<E>(call);
  if constexpr (E == Encoding::kF8E4M3 || E == Encoding::kF4E2M1) {
    if (call.format->blocks > 1) return direct<E, true>(call);
  }
  direct<E, false>(call);
}

LinearKernel pick(Encoding encoding) {
  switch (encoding) {
    case Encoding::kF32:
      return linear<Encoding::kF32>;
    case Encoding::kF16:
      return linear<Encoding::kF16>;
    case Encoding::kBF16:
      return linear<Encoding::kBF16>;
    case Encoding::kF8E4M3:
      return linear<Encoding::kF8E4M3>;
    case Encoding::kF4E2M1:
      return linear<Encoding::kF4E2M1>;
    default:
      return nullptr;
  }
}

}  // namespace
}  // namespace edgewise::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace edgewise::cpu {

LinearKernel float_linear_kernel(Isa isa, Encoding encoding) {
  return EDGEWISE_PICK(isa, pick)(encoding);
}

}  // namespace edgewise::cpu
#endif
