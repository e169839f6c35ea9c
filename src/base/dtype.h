// Element types of tensors, their sizes and names, and conversions to and from float32.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace edgewise {

enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kF8E4M3,  // OCP FP8 E4M3FN: no infinity, NaN is 0x7f / 0xff, largest 448
  kF8E5M2,
  kF4E2M1,  // two to a byte, low nibble first
  kI8,
  kU8,
  kI4,  // two to a byte, low nibble first
  kU4,
  kI32,
  kI64,
  kBool,
  kF64,
  kI16,
};

// Bits an element takes.
int bit_width(DType dtype);
bool is_float(DType dtype);

// Bytes of `count` packed elements; 4-bit types round up to a whole byte.
inline size_t byte_size(DType dtype, size_t count) { return (count * bit_width(dtype) + 7) / 8; }

// Lower-case names as in the graph's text form: f32, bf16, f8e4m3, i4 ...
std::string_view dtype_name(DType dtype);
// Throws Error(kUsage) for an unknown name.
DType dtype_from_name(std::string_view name);

inline float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

// Round to nearest even; NaN stays NaN.
inline uint16_t float_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float f16_to_float(uint16_t bits);
uint16_t float_to_f16(float value);  // round to nearest even, overflow to infinity

float f8e4m3_to_float(uint8_t bits);
uint8_t float_to_f8e4m3(float value);  // round to nearest even, saturates at +-448; NaN stays NaN

float f8e5m2_to_float(uint8_t bits);

float f4e2m1_to_float(uint8_t nibble);
uint8_t float_to_f4e2m1(float value);  // round to nearest even, saturates at +-6

// Converts `count` elements starting at element `first` of a packed buffer to float32.
// Integer types convert by value. Throws Error(kInternal) when the buffer is too short.
void to_float(DType dtype, std::span<const std::byte> data, size_t first, std::span<float> out);
// Converts float32 to `dtype` (float types and integers by rounding to nearest even with saturation).
void from_float(DType dtype, std::span<const float> values, std::span<std::byte> out);

}  // namespace edgewise
