// Weights that are multiplied as float32: how the Linear kernels of one target decode them and finish their sums.
#if defined(EDGEWISE_FLOAT_WEIGHTS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef EDGEWISE_FLOAT_WEIGHTS_INL_H
#undef EDGEWISE_FLOAT_WEIGHTS_INL_H
#else
#define EDGEWISE_FLOAT_WEIGHTS_INL_H
#endif

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

// The kernel that `pick` has for an encoding; none for those that other files multiply.
template <typename Pick>
LinearKernel for_encoding(Encoding encoding, Pick pick) {
  switch (encoding) {
    case Encoding::kF32:
      return pick.template operator()<Encoding::kF32>();
    case Encoding::kF16:
      return pick.template operator()<Encoding::kF16>();
    case Encoding::kBF16:
      return pick.template operator()<Encoding::kBF16>();
    case Encoding::kF8E4M3:
      return pick.template operator()<Encoding::kF8E4M3>();
    case Encoding::kF4E2M1:
      return pick.template operator()<Encoding::kF4E2M1>();
    default:
      return nullptr;
  }
}

}  // namespace
}  // namespace edgewise::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
