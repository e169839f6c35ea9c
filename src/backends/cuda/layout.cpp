#include "backends/cuda/layout.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/error.h"

namespace edgewise::cuda {
namespace {

constexpr std::array<std::string_view, 7> kEncodingNames = {"f32", "f16", "bf16", "f8e4m3", "int8", "int4", "f4e2m1"};
constexpr std::array<std::string_view, 3> kScalingNames = {"row", "chunks", "lanes"};

}  // namespace

int64_t WeightFormat::chunk_bytes() const {
  const int64_t elements = kBlockRows * kChunkColumns;
  switch (encoding) {
    case Encoding::kF32:
      return elements * 4;
    case Encoding::kF16:
    case Encoding::kBF16:
      return elements * 2;
    case Encoding::kF8:
    case Encoding::kInt8:
      return elements;
    default:
      return elements / 2;
  }
}

uint32_t WeightFormat::scale_magic() const {
  const int64_t unit = scaling == Scaling::kLanes ? 16 : kChunkColumns;
  return static_cast<uint32_t>((1 << 20) / std::max<int64_t>(block / unit, 1) + 1);
}

size_t WeightFormat::weight_bytes() const { return static_cast<size_t>(row_blocks() * chunks() * chunk_bytes()); }

float WeightFormat::half_unit(std::span<const std::byte> packed) const {
  const auto* factors = reinterpret_cast<const float*>(packed.data() + factors_offset());
  if (encoding == Encoding::kF16 || encoding == Encoding::kBF16) return factors[0];
  const std::byte* scales = packed.data() + scales_offset();
  const size_t scale_count = scaling == Scaling::kRow ? 0 : block_values();
  float largest = 0;
  for (int64_t row = 0; row < n; ++row) largest = std::max(largest, std::fabs(factors[row]));
  // A bound for all rows together; halves have room for those whose weights are much smaller.
  float largest_scale = scale_count == 0 ? 1.0f : 0.0f;
  for (size_t i = 0; i < scale_count; ++i) {
    float scale = 0;
    if (scaling == Scaling::kChunks)
      std::memcpy(&scale, scales + i * 4, 4);
    else
      to_float(DType::kF16, {scales, block_values() * 2}, i, {&scale, 1});
    largest_scale = std::max(largest_scale, std::fabs(scale));
  }
  const float code = encoding == Encoding::kInt8   ? 256
                     : encoding == Encoding::kInt4 ? 16
                     : encoding == Encoding::kF8   ? 448
                                                   : 6 / kF4Factor;
  int exponent = 0;
  std::frexp(largest * largest_scale * code, &exponent);
  return largest * largest_scale > 0 ? std::ldexp(1.0f, exponent - 15) : 1.0f;
}

std::string WeightFormat::text() const {
  std::string text = fmt::format("mma-{}:{}", kEncodingNames[static_cast<size_t>(encoding)],
                                 kScalingNames[static_cast<size_t>(scaling)]);
  if (zeros) text += ":zeros";
  if (token_scales) text += ":token";
  return text;
}

WeightFormat WeightFormat::parse(const std::string& text, int64_t n, int64_t k, int64_t block) {
  // Few enough to try them all.
  for (size_t i = 0; i < kEncodingNames.size() * kScalingNames.size() * 4; ++i) {
    WeightFormat format{
        static_cast<Encoding>(i / 12), static_cast<Scaling>(i / 4 % 3), i % 2 == 1, i / 2 % 2 == 1, n, k, block};
    if (format.text() == text && (format.encoding != Encoding::kF4 || format.scaling == Scaling::kLanes)) return format;
  }
  bad_file("weights are packed as \"{}\", which this version does not read; build the engine again", text);
}

}  // namespace edgewise::cuda
