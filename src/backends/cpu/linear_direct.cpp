// Linear for weights that are multiplied as float32 (f32, f16, bf16, f8e4m3, f4e2m1), a few tokens at a time: weights
// are decoded in registers, in one linear read of memory.
//
// Every output is one chain of fused multiply-adds over ascending k, here and in linear_blocked.cpp, so the two walks
// and every tile size give the same bits.
#include "backends/cpu/kernels.h"
#include "backends/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/linear_direct.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include <algorithm>

#include "backends/cpu/float_weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace edgewise::cpu::HWY_NAMESPACE {
namespace {

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
          add_products(decode<E>(weights + static_cast<size_t>(v / kParts) * format.panel_bytes, k, v % kParts), k, v);
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

// Tokens of one pass over the weights: as many as have registers for their sums.
constexpr int kMostTokens = kLanes == 16 ? 8 : 4;

template <Encoding E, bool kBlockScales, int kPanels, int kTokens = kMostTokens>
HWY_INLINE void direct_pass(const LinearCall& call, int64_t panel, int token, int count) {
  if (count == kTokens) return direct_tile<E, kBlockScales, kTokens, kPanels>(call, panel, token);
  if constexpr (kTokens > 1) direct_pass<E, kBlockScales, kPanels, kTokens - 1>(call, panel, token, count);
}

// In passes of equal size, nearly: few sums at a time wait for each other.
template <Encoding E, bool kBlockScales, int kPanels>
void direct_tokens(const LinearCall& call, int64_t panel) {
  int passes = (call.tokens + kMostTokens - 1) / kMostTokens;
  for (int token = 0; passes > 0; --passes) {
    const int count = (call.tokens - token + passes - 1) / passes;
    direct_pass<E, kBlockScales, kPanels>(call, panel, token, count);
    token += count;
  }
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

template <Encoding E>
void linear(const LinearCall& call) noexcept {
  if constexpr (E == Encoding::kF8E4M3 || E == Encoding::kF4E2M1) {
    if (call.format->blocks > 1) return direct<E, true>(call);
  }
  direct<E, false>(call);
}

LinearKernel pick(Encoding encoding) {
  return for_encoding(encoding, []<Encoding E>() -> LinearKernel { return linear<E>; });
}

}  // namespace
}  // namespace edgewise::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace edgewise::cpu {

LinearKernel direct_linear_kernel(Isa isa, Encoding encoding) { return EDGEWISE_PICK(isa, pick)(encoding); }

}  // namespace edgewise::cpu
#endif
