// What becomes of a logit before a token is chosen, and what the token weighs in a draw: bit for bit the same on the
// host and on a device, and weights are whole numbers, so that sums come out the same in any order. Compiled for both,
// without fused multiplications.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define EDGEWISE_HOST_DEVICE __host__ __device__
#else
#define EDGEWISE_HOST_DEVICE
#endif

namespace edgewise {

// Of the most probable token: what is 2^-41 as probable weighs nothing.
inline constexpr float kMostWeight = 0x1p40f;

// `x` or, where it does not hold, zero: without a branch, which compilers make where sums might trap.
EDGEWISE_HOST_DEVICE inline float where(bool holds, float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits &= -static_cast<uint32_t>(holds);
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// exp(x) * kMostWeight for x up to 0, to 2e-7 of it, rounded to a whole number; zero for what is no number. Without
// branches and calls, so that it becomes vectors: 2^x is 2^n of its whole part times a polynomial (Taylor's, of ln 2
// times what is left).
EDGEWISE_HOST_DEVICE inline float draw_weight(float x) {
  const bool small = x > -40.0f;
  const float near = where(small, x);
  const auto whole = static_cast<int32_t>(near * 1.44269504f - 0.5f);  // to nearest, of what is not positive
  const float f = (near - static_cast<float>(whole) * 0.693359375f) + static_cast<float>(whole) * 2.12194440e-4f;
  const float cubed = ((((f * (1.0f / 5040) + 1.0f / 720) * f + 1.0f / 120) * f + 1.0f / 24) * f + 1.0f / 6) * f;
  const float power = ((cubed + 0.5f) * f + 1) * f + 1;
  const int32_t bits = (whole + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  const float weight = where(small, power * scale * kMostWeight);
  constexpr float kWhole = 0x1p23f;  // from here on floats are whole numbers
  const bool fine = weight < kWhole;
  return where(fine, (weight + kWhole) - kWhole) + where(!fine, weight);
}

struct LogitChange {
  int32_t index = 0;
  float repetition_penalty = 1;  // arXiv:1909.05858
  float add = 0;
  int32_t times = 0;  // that its token was generated
};
EDGEWISE_HOST_DEVICE inline float changed_logit(float logit, const LogitChange& change) {
  return (logit > 0 ? logit / change.repetition_penalty : logit * change.repetition_penalty) + change.add;
}

// The place in [0, mass) of a number from [0, 1).
EDGEWISE_HOST_DEVICE inline uint64_t place_in(uint64_t mass, double uniform) {
  const auto place = static_cast<uint64_t>(uniform * static_cast<double>(mass));
  return place < mass ? place : mass - 1;
}
// The least whole number that is `share` of the mass, and at least one.
EDGEWISE_HOST_DEVICE inline uint64_t share_of(uint64_t mass, double share) {
  const auto part = static_cast<uint64_t>(std::ceil(share * static_cast<double>(mass)));
  return part == 0 ? 1 : part < mass ? part : mass;
}

}  // namespace edgewise
