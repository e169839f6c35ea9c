// What the Linear kernels of one target share: vectors of a panel's rows, loads that widen, scaled stores.
#if defined(EDGEWISE_PANEL_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef EDGEWISE_PANEL_INL_H
#undef EDGEWISE_PANEL_INL_H
#else
#define EDGEWISE_PANEL_INL_H
#endif

#include "backends/cpu/kernels.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace edgewise::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using DF = hn::CappedTag<float, kPanel>;
using VF = hn::Vec<DF>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(DF()));
constexpr int kParts = kPanel / kLanes;  // vectors that hold one value for each row of a panel

HWY_INLINE VF load_f16(const uint16_t* from) {
  const hn::Rebind<hwy::float16_t, DF> dh;
  return hn::PromoteTo(DF(), hn::LoadU(dh, reinterpret_cast<const hwy::float16_t*>(from)));
}

HWY_INLINE VF load_bf16(const uint16_t* from) {
  const hn::Rebind<uint16_t, DF> du16;
  const hn::Rebind<uint32_t, DF> du32;
  return hn::BitCast(DF(), hn::ShiftLeft<16>(hn::PromoteTo(du32, hn::LoadU(du16, from))));
}

// f8e4m3 as the f16 with the same fields, which is 1/256 of the value. NaN (0x7f) reads as 480/256.
HWY_INLINE VF load_f8_scaled(const uint8_t* from) {
  const hn::Rebind<uint8_t, DF> du8;
  const hn::Rebind<uint16_t, DF> du16;
  const hn::Rebind<int16_t, DF> di16;
  const hn::Rebind<hwy::float16_t, DF> dh;
  const auto wide = hn::ShiftLeft<8>(hn::PromoteTo(du16, hn::LoadU(du8, from)));
  const auto fields = hn::ShiftRight<1>(hn::BitCast(di16, wide));
  const auto bits = hn::And(hn::BitCast(du16, fields), hn::Set(du16, 0xbf80));
  return hn::PromoteTo(DF(), hn::BitCast(dh, bits));
}

// Scales of one block for the rows of one part of the panel at `base`.
HWY_INLINE VF load_scales(ScaleKind kind, const std::byte* base, int64_t block, int part) {
  const int64_t at = block * kPanel + part * kLanes;
  switch (kind) {
    case ScaleKind::kF16:
      return load_f16(reinterpret_cast<const uint16_t*>(base) + at);
    case ScaleKind::kBF16:
      return load_bf16(reinterpret_cast<const uint16_t*>(base) + at);
    case ScaleKind::kF8E4M3:
      return hn::Mul(load_f8_scaled(reinterpret_cast<const uint8_t*>(base) + at), hn::Set(DF(), 256.0f));
    default:
      return hn::LoadU(DF(), reinterpret_cast<const float*>(base) + at);
  }
}

// out = value * global_scale + bias, for the rows of one part; rows in the padding are not written.
HWY_INLINE void store_part(const LinearCall& call, int64_t panel, int token, int part, VF value) {
  const DF d;
  const PackedFormat& format = *call.format;
  const int64_t row = panel * kPanel + part * kLanes;
  const int64_t known = format.n - row;
  if (known <= 0) return;
  if (format.global_scale != 1.0f) value = hn::Mul(value, hn::Set(d, format.global_scale));
  float* out = call.out + token * call.out_stride + row;
  const float* bias = call.bias == nullptr ? nullptr : call.bias + token * call.bias_stride + row;
  if (HWY_LIKELY(known >= kLanes)) {
    if (bias != nullptr) value = hn::Add(value, hn::LoadU(d, bias));
    hn::StoreU(value, d, out);
    return;
  }
  alignas(64) float values[kLanes];
  hn::Store(value, d, values);
  for (int64_t i = 0; i < known; ++i) out[i] = values[i] + (bias != nullptr ? bias[i] : 0.0f);
}

}  // namespace
}  // namespace edgewise::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
