#include "base/dtype.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/error.h"

namespace edgewise {
namespace {

struct TypeInfo {
  DType dtype;
  std::string_view name;
  int bits;
  bool floating;
};

constexpr std::array kTypes = {
    TypeInfo{DType::kF32, "f32", 32, true},      TypeInfo{DType::kF16, "f16", 16, true},
    TypeInfo{DType::kBF16, "bf16", 16, true},    TypeInfo{DType::kF8E4M3, "f8e4m3", 8, true},
    TypeInfo{DType::kF8E5M2, "f8e5m2", 8, true}, TypeInfo{DType::kF4E2M1, "f4e2m1", 4, true},
    TypeInfo{DType::kI8, "i8", 8, false},        TypeInfo{DType::kU8, "u8", 8, false},
    TypeInfo{DType::kI4, "i4", 4, false},        TypeInfo{DType::kU4, "u4", 4, false},
    TypeInfo{DType::kI32, "i32", 32, false},     TypeInfo{DType::kI64, "i64", 64, false},
    TypeInfo{DType::kBool, "bool", 8, false},    TypeInfo{DType::kF64, "f64", 64, true},
    TypeInfo{DType::kI16, "i16", 16, false},
};

const TypeInfo& info(DType dtype) {
  const auto index = static_cast<size_t>(dtype);
  check_internal(index < kTypes.size() && kTypes[index].dtype == dtype, "unknown dtype");
  return kTypes[index];
}

constexpr std::array<float, 8> kF4Values = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};

template <typename T>
T load(std::span<const std::byte> data, size_t index) {
  T value;
  std::memcpy(&value, data.data() + index * sizeof(T), sizeof(T));
  return value;
}

template <typename T, typename Convert>
void convert_all(std::span<const std::byte> data, size_t first, std::span<float> out, Convert convert) {
  for (size_t i = 0; i < out.size(); ++i) out[i] = convert(load<T>(data, first + i));
}

uint8_t nibble(std::span<const std::byte> data, size_t index) {
  const auto byte = static_cast<uint8_t>(data[index / 2]);
  return index % 2 == 0 ? byte & 0x0f : byte >> 4;
}

void set_nibble(std::span<std::byte> data, size_t index, uint8_t value) {
  auto& byte = data[index / 2];
  byte = index % 2 == 0 ? (byte & std::byte{0xf0}) | std::byte(value & 0x0f)
                        : (byte & std::byte{0x0f}) | std::byte(value << 4);
}

template <typename T>
void store_rounded(std::span<const float> values, std::span<std::byte> out) {
  constexpr double kLow = static_cast<double>(std::numeric_limits<T>::min());
  constexpr double kHigh = static_cast<double>(std::numeric_limits<T>::max());
  for (size_t i = 0; i < values.size(); ++i) {
    const double rounded = std::nearbyint(static_cast<double>(values[i]));
    const T value = rounded >= kHigh  ? std::numeric_limits<T>::max()
                    : rounded <= kLow ? std::numeric_limits<T>::min()
                                      : static_cast<T>(rounded);
    std::memcpy(out.data() + i * sizeof(T), &value, sizeof(T));
  }
}

template <typename T, typename Convert>
void store_all(std::span<const float> values, std::span<std::byte> out, Convert convert) {
  for (size_t i = 0; i < values.size(); ++i) {
    const T value = convert(values[i]);
    std::memcpy(out.data() + i * sizeof(T), &value, sizeof(T));
  }
}

// All there are, since whole matrices of them are converted.
const std::array<float, 256>& f8e4m3_values() {
  static const auto values = [] {
    std::array<float, 256> all;
    for (unsigned bits = 0; bits < all.size(); ++bits) all[bits] = f8e4m3_to_float(static_cast<uint8_t>(bits));
    return all;
  }();
  return values;
}

}  // namespace

int bit_width(DType dtype) { return info(dtype).bits; }
bool is_float(DType dtype) { return info(dtype).floating; }
std::string_view dtype_name(DType dtype) { return info(dtype).name; }

DType dtype_from_name(std::string_view name) {
  for (const TypeInfo& type : kTypes) {
    if (type.name == name) return type.dtype;
  }
  usage_error("unknown dtype '{}'; expected one of f32, f16, bf16, f8e4m3, i8, i4 ...", name);
}

float f16_to_float(uint16_t bits) {
  const uint32_t sign = uint32_t(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0) {
    const float value = std::ldexp(static_cast<float>(mantissa), -24);
    return sign ? -value : value;
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

uint16_t float_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // rounds to 65536 or more
  if (magnitude < 0x38800000u) {                        // subnormal in half precision
    const float scaled = std::bit_cast<float>(magnitude) * 16777216.0f;
    return sign | static_cast<uint16_t>(std::nearbyint(scaled));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return sign | static_cast<uint16_t>((rounded - 0x38000000u) >> 13);
}

float f8e4m3_to_float(uint8_t bits) {
  const uint32_t magnitude = bits & 0x7fu;
  if (magnitude == 0x7f) return std::bit_cast<float>(0x7fc00000u);
  const uint32_t exponent = magnitude >> 3;
  const uint32_t mantissa = magnitude & 7u;
  const float value = exponent == 0 ? static_cast<float>(mantissa) * 0x1p-9f
                                    : std::bit_cast<float>(((exponent + 120) << 23) | (mantissa << 20));
  return bits & 0x80u ? -value : value;
}

uint8_t float_to_f8e4m3(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint8_t>((bits >> 24) & 0x80u);
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return sign | 0x7f;
  if (magnitude >= 448.0f) return sign | 0x7e;
  if (magnitude < 0x1p-6f) return sign | static_cast<uint8_t>(std::nearbyint(magnitude * 512.0f));
  const uint32_t m = std::bit_cast<uint32_t>(magnitude);
  const uint32_t rounded = m + 0x7ffffu + ((m >> 20) & 1u);
  const uint32_t coded = (rounded >> 20) - (120u << 3);
  return sign | static_cast<uint8_t>(std::min(coded, 0x7eu));
}

float f8e5m2_to_float(uint8_t bits) { return f16_to_float(static_cast<uint16_t>(bits << 8)); }

float f4e2m1_to_float(uint8_t nibble) {
  const float value = kF4Values[nibble & 7u];
  return nibble & 8u ? -value : value;
}

uint8_t float_to_f4e2m1(float value) {
  const float magnitude = std::fabs(value);
  uint8_t best = 0;
  for (uint8_t i = 1; i < 8; ++i) {
    const float gap = std::fabs(kF4Values[i] - magnitude) - std::fabs(kF4Values[best] - magnitude);
    if (gap < 0 || (gap == 0 && i % 2 == 0)) best = i;  // ties to the even code
  }
  return best | (std::signbit(value) ? 8 : 0);
}

void to_float(DType dtype, std::span<const std::byte> data, size_t first, std::span<float> out) {
  check_internal(byte_size(dtype, first + out.size()) <= data.size(), "to_float: buffer too short");
  switch (dtype) {
    case DType::kF32:
      std::ranges::copy(data.subspan(first * 4, out.size_bytes()), std::as_writable_bytes(out).begin());
      return;
    case DType::kF64:
      return convert_all<double>(data, first, out, [](double v) { return static_cast<float>(v); });
    case DType::kF16:
      return convert_all<uint16_t>(data, first, out, f16_to_float);
    case DType::kBF16:
      return convert_all<uint16_t>(data, first, out, bf16_to_float);
    case DType::kF8E4M3:
      return convert_all<uint8_t>(data, first, out, [&values = f8e4m3_values()](uint8_t bits) { return values[bits]; });
    case DType::kF8E5M2:
      return convert_all<uint8_t>(data, first, out, f8e5m2_to_float);
    case DType::kI8:
      return convert_all<int8_t>(data, first, out, [](int8_t v) { return float(v); });
    case DType::kU8:
    case DType::kBool:
      return convert_all<uint8_t>(data, first, out, [](uint8_t v) { return float(v); });
    case DType::kI16:
      return convert_all<int16_t>(data, first, out, [](int16_t v) { return float(v); });
    case DType::kI32:
      return convert_all<int32_t>(data, first, out, [](int32_t v) { return float(v); });
    case DType::kI64:
      return convert_all<int64_t>(data, first, out, [](int64_t v) { return float(v); });
    case DType::kF4E2M1:
      for (size_t i = 0; i < out.size(); ++i) out[i] = f4e2m1_to_float(nibble(data, first + i));
      return;
    case DType::kU4:
      for (size_t i = 0; i < out.size(); ++i) out[i] = nibble(data, first + i);
      return;
    case DType::kI4:
      for (size_t i = 0; i < out.size(); ++i) out[i] = float((nibble(data, first + i) ^ 8) - 8);
      return;
  }
}

void from_float(DType dtype, std::span<const float> values, std::span<std::byte> out) {
  check_internal(byte_size(dtype, values.size()) <= out.size(), "from_float: buffer too short");
  switch (dtype) {
    case DType::kF32:
      std::ranges::copy(std::as_bytes(values), out.begin());  // not memcpy(): there may be none
      return;
    case DType::kF64:
      return store_all<double>(values, out, [](float v) { return double(v); });
    case DType::kF16:
      return store_all<uint16_t>(values, out, float_to_f16);
    case DType::kBF16:
      return store_all<uint16_t>(values, out, float_to_bf16);
    case DType::kF8E4M3:
      return store_all<uint8_t>(values, out, float_to_f8e4m3);
    case DType::kI8:
      return store_rounded<int8_t>(values, out);
    case DType::kU8:
    case DType::kBool:
      return store_rounded<uint8_t>(values, out);
    case DType::kI16:
      return store_rounded<int16_t>(values, out);
    case DType::kI32:
      return store_rounded<int32_t>(values, out);
    case DType::kI64:
      return store_rounded<int64_t>(values, out);
    case DType::kF4E2M1:
      for (size_t i = 0; i < values.size(); ++i) set_nibble(out, i, float_to_f4e2m1(values[i]));
      return;
    case DType::kU4:
      for (size_t i = 0; i < values.size(); ++i) {
        set_nibble(out, i, static_cast<uint8_t>(std::clamp(std::nearbyint(values[i]), 0.0f, 15.0f)));
      }
      return;
    case DType::kI4:
      for (size_t i = 0; i < values.size(); ++i) {
        const int value = static_cast<int>(std::clamp(std::nearbyint(values[i]), -8.0f, 7.0f));
        set_nibble(out, i, static_cast<uint8_t>(value & 0x0f));
      }
      return;
    case DType::kF8E5M2:
      break;
  }
  fail(ErrorKind::kInternal, "from_float: no conversion to {}", dtype_name(dtype));
}

}  // namespace edgewise
