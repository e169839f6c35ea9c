// Row-wise kernels: rounding to int8, norms, activations, rotary embedding.
//
// All work on one row, so a token never meets its companions.
#include "backends/cpu/kernels.h"
#include "backends/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/vector_ops.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include <algorithm>
#include <cmath>

#include "hwy/contrib/math/math-inl.h"

#include "backends/cpu/panel-inl.h"

HWY_BEFORE_NAMESPACE();
namespace edgewise::cpu::HWY_NAMESPACE {
namespace {

// Calls function(vector...) over whole vectors, then over the rest by way of a padded copy.
template <typename F>
HWY_INLINE void map1(const float* a, int64_t count, float* out, const F& function) {
  const DF d;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) hn::StoreU(function(hn::LoadU(d, a + i)), d, out + i);
  if (i == count) return;
  alignas(64) float rest[kLanes] = {};
  std::copy(a + i, a + count, rest);
  hn::Store(function(hn::Load(d, rest)), d, rest);
  std::copy(rest, rest + (count - i), out + i);
}

template <typename F>
HWY_INLINE void map2(const float* a, const float* b, int64_t count, float* out, const F& function) {
  const DF d;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    hn::StoreU(function(hn::LoadU(d, a + i), hn::LoadU(d, b + i)), d, out + i);
  }
  if (i == count) return;
  alignas(64) float rest_a[kLanes] = {};
  alignas(64) float rest_b[kLanes] = {};
  std::copy(a + i, a + count, rest_a);
  std::copy(b + i, b + count, rest_b);
  hn::Store(function(hn::Load(d, rest_a), hn::Load(d, rest_b)), d, rest_a);
  std::copy(rest_a, rest_a + (count - i), out + i);
}

HWY_INLINE VF sigmoid(VF x) {
  const DF d;
  const VF one = hn::Set(d, 1.0f);
  return hn::Div(one, hn::Add(one, hn::Exp(d, hn::Neg(hn::Max(x, hn::Set(d, -87.0f))))));
}
HWY_INLINE VF silu_of(VF x) { return hn::Mul(x, sigmoid(x)); }

// A rational minimax approximation on [-4, 4], as in Eigen; 3 units in the last place.
HWY_INLINE VF erf_of(VF x) {
  const DF d;
  x = hn::Min(hn::Max(x, hn::Set(d, -4.0f)), hn::Set(d, 4.0f));
  const VF x2 = hn::Mul(x, x);
  VF p = hn::Set(d, -2.72614225801306e-10f);
  for (const float c : {2.77068142495902e-08f, -2.10102402082508e-06f, -5.69250639462346e-05f, -7.34990630326855e-04f,
                        -2.95459980854025e-03f, -1.60960333262415e-02f}) {
    p = hn::MulAdd(p, x2, hn::Set(d, c));
  }
  VF q = hn::Set(d, -1.45660718464996e-05f);
  for (const float c :
       {-2.13374055278905e-04f, -1.68282697438203e-03f, -7.37332916720468e-03f, -1.42647390514189e-02f}) {
    q = hn::MulAdd(q, x2, hn::Set(d, c));
  }
  return hn::Div(hn::Mul(x, p), q);
}
HWY_INLINE VF gelu_erf_of(VF x) {
  const DF d;
  const VF half = hn::Mul(x, hn::Set(d, 0.5f));
  return hn::MulAdd(half, erf_of(hn::Mul(x, hn::Set(d, 0.70710678118654752f))), half);
}
HWY_INLINE VF gelu_tanh_of(VF x) {
  const DF d;
  // 0.5 x (1 + tanh(u)) = x sigmoid(2u)
  const VF cubic = hn::Mul(hn::Mul(x, x), x);
  const VF inner = hn::MulAdd(cubic, hn::Set(d, 0.044715f), x);
  return hn::Mul(x, sigmoid(hn::Mul(inner, hn::Set(d, 2 * 0.7978845608028654f))));
}

void add(const float* a, const float* b, int64_t count, float* out) noexcept {
  map2(a, b, count, out, [](VF x, VF y) HWY_ATTR { return hn::Add(x, y); });
}
void mul(const float* a, const float* b, int64_t count, float* out) noexcept {
  map2(a, b, count, out, [](VF x, VF y) HWY_ATTR { return hn::Mul(x, y); });
}
void scale(const float* x, float factor, int64_t count, float* out) noexcept {
  map1(x, count, out, [factor](VF v) HWY_ATTR { return hn::Mul(v, hn::Set(DF(), factor)); });
}
void multiply_add(const float* x, float factor, int64_t count, float* out) noexcept {
  map2(x, out, count, out, [factor](VF v, VF sum) HWY_ATTR { return hn::MulAdd(v, hn::Set(DF(), factor), sum); });
}
void silu(const float* x, int64_t count, float* out) noexcept {
  map1(x, count, out, [](VF v) HWY_ATTR { return silu_of(v); });
}
void gelu_erf(const float* x, int64_t count, float* out) noexcept {
  map1(x, count, out, [](VF v) HWY_ATTR { return gelu_erf_of(v); });
}
void gelu_tanh(const float* x, int64_t count, float* out) noexcept {
  map1(x, count, out, [](VF v) HWY_ATTR { return gelu_tanh_of(v); });
}
void relu(const float* x, int64_t count, float* out) noexcept {
  map1(x, count, out, [](VF v) HWY_ATTR { return hn::Max(v, hn::Zero(DF())); });
}
void softcap(const float* x, float cap, int64_t count, float* out) noexcept {
  map1(x, count, out, [cap](VF v) HWY_ATTR {
    const DF d;
    return hn::Mul(hn::Set(d, cap), hn::Tanh(d, hn::Div(v, hn::Set(d, cap))));
  });
}
void swiglu(const float* gate, const float* up, int64_t count, float* out) noexcept {
  map2(gate, up, count, out, [](VF g, VF u) HWY_ATTR { return hn::Mul(silu_of(g), u); });
}
void geglu_erf(const float* gate, const float* up, int64_t count, float* out) noexcept {
  map2(gate, up, count, out, [](VF g, VF u) HWY_ATTR { return hn::Mul(gelu_erf_of(g), u); });
}
void geglu_tanh(const float* gate, const float* up, int64_t count, float* out) noexcept {
  map2(gate, up, count, out, [](VF g, VF u) HWY_ATTR { return hn::Mul(gelu_tanh_of(g), u); });
}

// Sum over i of function(x[i]), in four chains.
template <typename F>
HWY_INLINE float sum_of(const float* x, int64_t count, const F& function) {
  const DF d;
  VF sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    EDGEWISE_UNROLL for (int j = 0; j < 4; ++j) {
      sums[j] = hn::Add(sums[j], function(hn::LoadU(d, x + i + j * kLanes)));
    }
  }
  for (; i + kLanes <= count; i += kLanes) sums[0] = hn::Add(sums[0], function(hn::LoadU(d, x + i)));
  const VF all = hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]));
  float sum = hn::GetLane(hn::SumOfLanes(d, all));
  for (; i < count; ++i) sum += hn::GetLane(function(hn::Set(d, x[i])));
  return sum;
}

void rms_norm(const float* x, const float* weight, int64_t count, float epsilon, float* out) noexcept {
  const float sum = sum_of(x, count, [](VF v) HWY_ATTR { return hn::Mul(v, v); });
  const float inverse = 1.0f / std::sqrt(sum / static_cast<float>(count) + epsilon);
  map2(x, weight, count, out,
       [inverse](VF v, VF w) HWY_ATTR { return hn::Mul(hn::Mul(v, hn::Set(DF(), inverse)), w); });
}

void layer_norm(const float* x, const float* weight, const float* bias, int64_t count, float epsilon,
                float* out) noexcept {
  const float mean = sum_of(x, count, [](VF v) HWY_ATTR { return v; }) / static_cast<float>(count);
  const float squares = sum_of(x, count, [mean](VF v) HWY_ATTR {
    const VF centred = hn::Sub(v, hn::Set(DF(), mean));
    return hn::Mul(centred, centred);
  });
  const float inverse = 1.0f / std::sqrt(squares / static_cast<float>(count) + epsilon);
  map2(x, weight, count, out, [mean, inverse](VF v, VF w) HWY_ATTR {
    return hn::Mul(hn::Mul(hn::Sub(v, hn::Set(DF(), mean)), hn::Set(DF(), inverse)), w);
  });
  if (bias != nullptr) add(out, bias, count, out);
}

void rotate_half(const float* x, const float* cos, const float* sin, int64_t half, float* out) noexcept {
  const DF d;
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const VF a = hn::LoadU(d, x + i);
    const VF b = hn::LoadU(d, x + half + i);
    const VF c = hn::LoadU(d, cos + i);
    const VF s = hn::LoadU(d, sin + i);
    hn::StoreU(hn::Sub(hn::Mul(a, c), hn::Mul(b, s)), d, out + i);
    hn::StoreU(hn::Add(hn::Mul(b, c), hn::Mul(a, s)), d, out + half + i);
  }
  for (; i < half; ++i) {
    const float a = x[i];
    const float b = x[half + i];
    out[i] = a * cos[i] - b * sin[i];
    out[half + i] = b * cos[i] + a * sin[i];
  }
}

void rotate_pairs(const float* x, const float* cos, const float* sin, int64_t half, float* out) noexcept {
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[2 * i];
    const float b = x[2 * i + 1];
    out[2 * i] = a * cos[i] - b * sin[i];
    out[2 * i + 1] = b * cos[i] + a * sin[i];
  }
}

float largest_magnitude(const float* x, int64_t count) {
  const DF d;
  VF largest = hn::Zero(d);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) largest = hn::Max(largest, hn::Abs(hn::LoadU(d, x + i)));
  float result = hn::GetLane(hn::MaxOfLanes(d, largest));
  for (; i < count; ++i) result = std::max(result, std::abs(x[i]));
  return result;
}

// q = round(x / s) to nearest even, and its sum.
float round_span(const float* x, float s, int64_t count, int64_t padded, int8_t* q) {
  const DF d;
  const hn::Rebind<int8_t, DF> di8;
  const hn::Rebind<int32_t, DF> di32;
  const VF divisor = hn::Set(d, s);
  auto sums = hn::Zero(di32);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const auto rounded = hn::NearestInt(hn::Div(hn::LoadU(d, x + i), divisor));
    sums = hn::Add(sums, rounded);
    hn::StoreU(hn::DemoteTo(di8, rounded), di8, q + i);
  }
  int32_t sum = hn::GetLane(hn::SumOfLanes(di32, sums));
  for (; i < count; ++i) {
    const int value = static_cast<int>(std::nearbyint(x[i] / s));
    q[i] = static_cast<int8_t>(std::clamp(value, -127, 127));
    sum += q[i];
  }
  for (; i < padded; ++i) q[i] = 0;
  return static_cast<float>(sum);
}

void quantize_row(const PackedFormat& format, const float* x, int64_t group_begin, int64_t group_end,
                  const QuantizedRows& row) noexcept {
  const float token_scale = format.token_scales ? largest_magnitude(x, format.k) / 127.0f : 0.0f;
  for (int64_t g = group_begin; g < group_end; ++g) {
    const int64_t begin = g * format.group;
    const int64_t count = std::min(format.group, format.k - begin);
    const int64_t padded = std::min(format.group, format.k_padded - begin);
    float s = format.token_scales ? token_scale : largest_magnitude(x + begin, count) / 127.0f;
    if (!(s > 0.0f)) s = 1.0f;
    row.scale[g] = s;
    row.sum[g] = round_span(x + begin, s, count, padded, row.q + begin);
    if (row.wide == nullptr) continue;
    for (int64_t i = begin; i < begin + padded; i += 4) {
      row.wide[i] = row.q[i];
      row.wide[i + 1] = row.q[i + 2];
      row.wide[i + 2] = row.q[i + 1];
      row.wide[i + 3] = row.q[i + 3];
    }
  }
}

const VectorKernels& table() {
  static constexpr VectorKernels kTable = {quantize_row, rms_norm,  layer_norm, add,         mul,         scale,
                                           multiply_add, silu,      gelu_erf,   gelu_tanh,   relu,        softcap,
                                           swiglu,       geglu_erf, geglu_tanh, rotate_half, rotate_pairs};
  return kTable;
}

}  // namespace
}  // namespace edgewise::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace edgewise::cpu {

const VectorKernels& vector_kernels(Isa isa) { return EDGEWISE_PICK(isa, table)(); }

}  // namespace edgewise::cpu
#endif
