// Linear for int8 and int4 weights and int8 activations, by 16-bit products (pmaddwd): no pair of products
// can overflow, unlike with 8-bit ones. AVX-512 VNNI has its own kernels in linear_vnni.cpp.
//
// A group's integer sum is exact, and groups are added in ascending order as floats, so tiles do not matter.
#include "backends/cpu/kernels.h"
#include "backends/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/linear_int.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include <algorithm>
#include <cstring>

#include "backends/cpu/panel-inl.h"

HWY_BEFORE_NAMESPACE();
namespace edgewise::cpu::HWY_NAMESPACE {
namespace {

using DI = hn::Rebind<int32_t, DF>;
using VI = hn::Vec<DI>;

// sum + a.low * b.low + a.high * b.high for the 16-bit halves of every 32-bit lane.
HWY_INLINE VI multiply_add(VI sum, VI a, VI b) {
#if HWY_TARGET == HWY_AVX3
  return hn::Add(sum, VI{_mm512_madd_epi16(a.raw, b.raw)});
#elif HWY_TARGET == HWY_AVX2
  return hn::Add(sum, VI{_mm256_madd_epi16(a.raw, b.raw)});
#elif HWY_ARCH_X86
  return hn::Add(sum, VI{_mm_madd_epi16(a.raw, b.raw)});
#else
  const VI low = hn::Mul(hn::ShiftRight<16>(hn::ShiftLeft<16>(a)), hn::ShiftRight<16>(hn::ShiftLeft<16>(b)));
  return hn::Add(sum, hn::Add(low, hn::Mul(hn::ShiftRight<16>(a), hn::ShiftRight<16>(b))));
#endif
}

// Two neighbours of QuantizedRows::wide in every lane.
HWY_INLINE VI broadcast_pair(const int16_t* from) {
  int32_t bits;
  std::memcpy(&bits, from, sizeof(bits));
  return hn::Set(DI(), bits);
}

// How many elements of k one 64-byte row of weights holds, and how many 16-bit vectors it splits into.
template <Encoding E>
constexpr int kStep = E == Encoding::kInt4 ? 8 : 4;

// Weights of one step as 16-bit pairs, in the order of QuantizedRows::wide.
template <Encoding E>
HWY_INLINE void split(const uint8_t* from, VI* halves) {
  const hn::Repartition<uint16_t, DI> du16;
  const DI di;
  const auto bytes = hn::BitCast(du16, hn::LoadU(hn::Repartition<uint8_t, DI>(), from));
  if constexpr (E == Encoding::kInt8) {
    halves[0] = hn::BitCast(di, hn::And(bytes, hn::Set(du16, 0xff)));
    halves[1] = hn::BitCast(di, hn::ShiftRight<8>(bytes));
  } else {
    const auto mask = hn::Set(du16, 0xf);
    halves[0] = hn::BitCast(di, hn::And(bytes, mask));
    halves[1] = hn::BitCast(di, hn::And(hn::ShiftRight<8>(bytes), mask));
    halves[2] = hn::BitCast(di, hn::And(hn::ShiftRight<4>(bytes), mask));
    halves[3] = hn::BitCast(di, hn::ShiftRight<12>(bytes));
  }
}

HWY_INLINE VF load_zeros(const PackedFormat& format, const std::byte* panel, int64_t block, int part) {
  if (!format.has_zeros) return hn::Set(DF(), static_cast<float>(format.fixed_zero));
  const auto* zeros = reinterpret_cast<const uint8_t*>(panel + format.zeros_offset) + block * kPanel + part * kLanes;
  return hn::ConvertTo(DF(), hn::PromoteTo(DI(), hn::LoadU(hn::Rebind<uint8_t, DF>(), zeros)));
}

template <Encoding E, int kTokens>
HWY_INLINE void tile(const LinearCall& call, int64_t panel, int token) {
  const DF d;
  const PackedFormat& format = *call.format;
  const std::byte* base = call.weights + static_cast<size_t>(panel) * format.panel_bytes;
  const auto* weights = reinterpret_cast<const uint8_t*>(base + format.weights_offset);
  const int16_t* x = call.quantized.wide + token * format.k_padded;
  const float* x_scale = call.quantized.scale + token * format.groups;
  const float* x_sum = call.quantized.sum + token * format.groups;
  constexpr int kHalves = kStep<E> / 2;
  for (int part = 0; part < kParts; ++part) {
    VF totals[kTokens];
    EDGEWISE_UNROLL for (int t = 0; t < kTokens; ++t) totals[t] = hn::Zero(d);
    for (int64_t g = 0; g < format.groups; ++g) {
      VI sums[kTokens];
      EDGEWISE_UNROLL for (int t = 0; t < kTokens; ++t) sums[t] = hn::Zero(DI());
      const int64_t end = std::min((g + 1) * format.group, format.k_padded);
      for (int64_t k = g * format.group; k < end; k += kStep<E>) {
        VI halves[kHalves];
        split<E>(weights + k / kStep<E> * 64 + part * kLanes * 4, halves);
        EDGEWISE_UNROLL for (int t = 0; t < kTokens; ++t) {
          EDGEWISE_UNROLL for (int h = 0; h < kHalves; ++h) {
            sums[t] = multiply_add(sums[t], halves[h], broadcast_pair(x + t * format.k_padded + k + h * 2));
          }
        }
      }
      const int64_t block = g * format.group / format.block;
      const VF scale = load_scales(format.scale, base, block, part);
      const VF zero = load_zeros(format, base, block, part);
      EDGEWISE_UNROLL for (int t = 0; t < kTokens; ++t) {
        const VF exact = hn::NegMulAdd(zero, hn::Set(d, x_sum[t * format.groups + g]), hn::ConvertTo(d, sums[t]));
        totals[t] = hn::MulAdd(exact, hn::Mul(scale, hn::Set(d, x_scale[t * format.groups + g])), totals[t]);
      }
    }
    EDGEWISE_UNROLL for (int t = 0; t < kTokens; ++t) store_part(call, panel, token + t, part, totals[t]);
  }
}

template <Encoding E>
void linear(const LinearCall& call) noexcept {
  for (int64_t panel = call.panel_begin; panel < call.panel_end; ++panel) {
    int token = 0;
    for (; token + 4 <= call.tokens; token += 4) tile<E, 4>(call, panel, token);
    for (; token < call.tokens; ++token) tile<E, 1>(call, panel, token);
  }
}

LinearKernel pick(Encoding encoding) {
  return encoding == Encoding::kInt8 ? linear<Encoding::kInt8> : linear<Encoding::kInt4>;
}

}  // namespace
}  // namespace edgewise::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace edgewise::cpu {

#if HWY_ARCH_X86
LinearKernel vnni_linear_kernel(Encoding encoding);  // linear_vnni.cpp
#endif

LinearKernel integer_linear_kernel(Isa isa, Encoding encoding) {
#if HWY_ARCH_X86
  if (isa == Isa::kAvx512Vnni) return vnni_linear_kernel(encoding);
#endif
  return EDGEWISE_PICK(isa, pick)(encoding);
}

bool wants_wide_rows(Isa isa) { return isa != Isa::kAvx512Vnni; }

}  // namespace edgewise::cpu
#endif
