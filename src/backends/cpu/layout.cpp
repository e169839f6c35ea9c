#include "backends/cpu/layout.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace edgewise::cpu {
namespace {

constexpr std::array<std::string_view, 7> kEncodingNames = {"f32", "f16", "bf16", "f8e4m3", "f4e2m1", "int8", "int4"};
constexpr std::array<std::string_view, 5> kScaleNames = {"none", "f32", "f16", "bf16", "f8e4m3"};

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

size_t scale_size(ScaleKind kind) {
  constexpr std::array<size_t, 5> kSizes = {0, 4, 2, 2, 1};
  return kSizes[static_cast<size_t>(kind)];
}

size_t weight_bytes(Encoding encoding, int64_t k_padded) {
  constexpr std::array<size_t, 7> kHalfBytes = {8, 4, 4, 2, 1, 2, 1};
  return static_cast<size_t>(k_padded) * kPanel * kHalfBytes[static_cast<size_t>(encoding)] / 2;
}

Encoding encoding_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return Encoding::kF32;
    case DType::kF16:
      return Encoding::kF16;
    case DType::kBF16:
      return Encoding::kBF16;
    case DType::kF8E4M3:
      return Encoding::kF8E4M3;
    case DType::kF4E2M1:
      return Encoding::kF4E2M1;
    case DType::kI8:
    case DType::kU8:
      return Encoding::kInt8;
    case DType::kI4:
    case DType::kU4:
      return Encoding::kInt4;
    default:
      unsupported("weights of type {}", dtype_name(dtype));
  }
}

ScaleKind scale_kind_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return ScaleKind::kF32;
    case DType::kF16:
      return ScaleKind::kF16;
    case DType::kBF16:
      return ScaleKind::kBF16;
    case DType::kF8E4M3:
      return ScaleKind::kF8E4M3;
    default:
      unsupported("scales of type {}", dtype_name(dtype));
  }
}

// Integer weights are stored unsigned: what is added to a stored value of this type.
int unsigned_offset(DType dtype) { return dtype == DType::kI8 ? 128 : dtype == DType::kI4 ? 8 : 0; }

// How many activations share an int8 scale: few, so that a loud channel coarsens few others. Weights' scales keep their
// own blocks, so this costs no bytes.
int64_t choose_group(int64_t block, int64_t k_padded) {
  constexpr int64_t kLargest = 32;
  if (block >= k_padded) return std::min(kLargest, k_padded);
  for (int64_t group = kLargest; group > 8; group -= 8) {
    if (block % group == 0) return group;
  }
  return 8;
}

// Element `index` of a packed buffer as raw bits.
uint32_t raw_bits(const std::byte* data, int bits, size_t index) {
  if (bits == 4) return (static_cast<uint32_t>(data[index / 2]) >> (index % 2 * 4)) & 15u;
  if (bits == 8) return static_cast<uint32_t>(data[index]);
  uint32_t value = 0;
  std::memcpy(&value, data + index * static_cast<size_t>(bits / 8), static_cast<size_t>(bits / 8));
  return value;
}

// Reads a source by (row, column of k) whatever its order.
class Reader {
 public:
  Reader(const Tensor& tensor, const SourceMatrix& source, int64_t rows, int64_t columns)
      : Reader(tensor, source.transposed, source.index, rows, columns) {}
  int bits() const { return bits_; }
  uint32_t at(int64_t row, int64_t column) const {
    return raw_bits(data_, bits_,
                    first_ + static_cast<size_t>(row) * row_stride_ + static_cast<size_t>(column) * column_stride_);
  }

 private:
  Reader(const Tensor& tensor, bool transposed, int64_t index, int64_t rows, int64_t columns)
      : data_(tensor.bytes().data()),
        bits_(bit_width(tensor.dtype())),
        first_(static_cast<size_t>(index * rows * columns)),
        row_stride_(static_cast<size_t>(transposed ? columns : 1)),
        column_stride_(static_cast<size_t>(transposed ? 1 : rows)) {
    check_internal(tensor.count() >= (index + 1) * rows * columns,
                   "packing: a source has another shape than announced");
  }

  const std::byte* data_;
  int bits_;
  size_t first_;
  size_t row_stride_;
  size_t column_stride_;
};

float bits_to_float(DType dtype, uint32_t bits) {
  float value = 0;
  std::array<std::byte, 4> bytes;
  std::memcpy(bytes.data(), &bits, 4);
  to_float(dtype, bytes, 0, {&value, 1});
  return value;
}

void put_weight(const PackedFormat& format, std::byte* panel, int row, int64_t k, uint32_t bits) {
  const auto r = static_cast<size_t>(row);
  const auto c = static_cast<size_t>(k);
  std::byte* out = panel + format.weights_offset;
  switch (format.encoding) {
    case Encoding::kF32:
      std::memcpy(out + (c * kPanel + r) * 4, &bits, 4);
      return;
    case Encoding::kF16:
    case Encoding::kBF16:
      std::memcpy(out + (c * kPanel + r) * 2, &bits, 2);
      return;
    case Encoding::kF8E4M3:
      out[c * kPanel + r] = static_cast<std::byte>(bits);
      return;
    case Encoding::kF4E2M1:
      out[(c / 8 * kPanel + r) * 4 + c % 8 / 2] |= static_cast<std::byte>(bits << (c % 2 * 4));
      return;
    case Encoding::kInt8:
      out[(c / 4 * kPanel + r) * 4 + c % 4] = static_cast<std::byte>(bits);
      return;
    case Encoding::kInt4:
      out[(c / 8 * kPanel + r) * 4 + c % 4] |= static_cast<std::byte>(bits << (c % 8 / 4 * 4));
      return;
  }
}

void put_scale(const PackedFormat& format, std::byte* panel, int row, int64_t block, DType dtype, uint32_t bits) {
  const size_t index = static_cast<size_t>(block * kPanel + row);
  if (format.scale == scale_kind_of(dtype)) {
    std::memcpy(panel + index * scale_size(format.scale), &bits, scale_size(format.scale));
    return;
  }
  const float value = bits_to_float(dtype, bits);
  std::memcpy(panel + index * 4, &value, 4);
}

// A layout no integer kernel reads: each weight as the float32 it stands for.
void pack_dequantized(const PackedFormat& format, const SourceMatrix& source, std::span<std::byte> out) {
  const int64_t block = source.block;
  const int64_t blocks = (format.k + block - 1) / block;
  const Reader weights(source.weight, source, format.n, format.k);
  const Reader scales(source.scale, source, format.n, blocks);
  for (int64_t n = 0; n < format.n; ++n) {
    std::byte* panel = out.data() + static_cast<size_t>(n / kPanel) * format.panel_bytes;
    for (int64_t k = 0; k < format.k; ++k) {
      float zero = 0;
      if (!source.zero.empty()) {
        zero = bits_to_float(source.zero.dtype(), Reader(source.zero, source, format.n, blocks).at(n, k / block));
      }
      const float value = (bits_to_float(source.weight.dtype(), weights.at(n, k)) - zero) *
                          bits_to_float(source.scale.dtype(), scales.at(n, k / block));
      put_weight(format, panel, static_cast<int>(n % kPanel), k, std::bit_cast<uint32_t>(value));
    }
  }
}

void pack_panel_scales(const PackedFormat& format, const SourceMatrix& source, int64_t first, std::byte* panel) {
  const int rows = static_cast<int>(std::min<int64_t>(kPanel, format.n - first));
  const Reader scales(source.scale, source, format.n, format.blocks);
  for (int64_t block = 0; block < format.blocks; ++block) {
    for (int row = 0; row < rows; ++row) {
      put_scale(format, panel, row, block, source.scale.dtype(), scales.at(first + row, block));
    }
  }
  if (!format.has_zeros) return;
  const Reader zeros(source.zero, source, format.n, format.blocks);
  const int offset = unsigned_offset(source.weight.dtype());
  for (int64_t block = 0; block < format.blocks; ++block) {
    for (int row = 0; row < rows; ++row) {
      const float zero = bits_to_float(source.zero.dtype(), zeros.at(first + row, block));
      const int stored = static_cast<int>(zero) + offset;
      if (stored < 0 || stored > 255)
        unsupported("a zero point of {} for weights of type {}", zero, dtype_name(source.weight.dtype()));
      panel[format.zeros_offset + static_cast<size_t>(block * kPanel + row)] = static_cast<std::byte>(stored);
    }
  }
}

}  // namespace

std::string_view encoding_name(Encoding encoding) { return kEncodingNames[static_cast<size_t>(encoding)]; }

void PackedFormat::finish() {
  const bool integer = is_integer(encoding);
  k_padded = integer || encoding == Encoding::kF4E2M1 ? round_up(k, 8) : k;
  if (block <= 0 || block >= k) block = k_padded;
  blocks = scale == ScaleKind::kNone ? 0 : (k + block - 1) / block;
  group = integer ? choose_group(block, k_padded) : 0;
  groups = integer ? (k_padded + group - 1) / group : 0;
  panels = (n + kPanel - 1) / kPanel;
  zeros_offset = static_cast<size_t>(round_up(blocks * kPanel * static_cast<int64_t>(scale_size(scale)), 64));
  weights_offset = zeros_offset + static_cast<size_t>(has_zeros ? round_up(blocks * kPanel, 64) : 0);
  panel_bytes =
      weights_offset + static_cast<size_t>(round_up(static_cast<int64_t>(weight_bytes(encoding, k_padded)), 64));
}

std::string PackedFormat::text() const {
  std::string text = fmt::format("p16-{}", encoding_name(encoding));
  if (scale != ScaleKind::kNone) text += fmt::format(":{}", kScaleNames[static_cast<size_t>(scale)]);
  if (has_zeros) text += ":zeros";
  if (is_integer(encoding) && !has_zeros) text += fmt::format(":z{}", fixed_zero);
  if (token_scales) text += ":token";
  return text;
}

PackedFormat PackedFormat::parse(const std::string& text, int64_t k, int64_t n, int64_t block, double global_scale) {
  PackedFormat format;
  format.k = k;
  format.n = n;
  format.block = block;
  format.global_scale = static_cast<float>(global_scale);
  size_t at = 0;
  bool first = true;
  while (at <= text.size()) {
    const size_t end = std::min(text.find(':', at), text.size());
    std::string_view word = std::string_view(text).substr(at, end - at);
    at = end + 1;
    if (first) {
      first = false;
      const std::string_view name = word.starts_with("p16-") ? word.substr(4) : word;
      const auto found = std::find(kEncodingNames.begin(), kEncodingNames.end(), name);
      if (found == kEncodingNames.end() || !word.starts_with("p16-")) {
        bad_file("weights are packed as \"{}\", which this version does not read; rebuild the engine", text);
      }
      format.encoding = static_cast<Encoding>(found - kEncodingNames.begin());
    } else if (word == "zeros") {
      format.has_zeros = true;
    } else if (word == "token") {
      format.token_scales = true;
    } else if (word.starts_with("z")) {
      format.fixed_zero = std::atoi(std::string(word.substr(1)).c_str());
    } else {
      const auto found = std::find(kScaleNames.begin(), kScaleNames.end(), word);
      if (found == kScaleNames.end()) bad_file("weights are packed as \"{}\": unknown scale type {}", text, word);
      format.scale = static_cast<ScaleKind>(found - kScaleNames.begin());
    }
  }
  format.finish();
  return format;
}

PackedFormat choose_format(const SourceTypes& source) {
  PackedFormat format;
  format.k = source.k;
  format.n = source.n;
  format.global_scale = static_cast<float>(source.global_scale);
  format.encoding = encoding_of(source.weight);
  if (source.has_scale) {
    format.block = source.block;
    format.scale = scale_kind_of(source.scale);
    const bool integer = is_integer(format.encoding);
    if ((integer && source.block < source.k && source.block % 8 != 0) || (!integer && source.has_zero)) {
      // Blocks the integer kernels cannot cut: float32 weights, with the blocks' scales in them.
      format.encoding = Encoding::kF32;
      format.scale = ScaleKind::kNone;
      format.block = 0;
    } else if (integer) {
      if (format.scale == ScaleKind::kF8E4M3) format.scale = ScaleKind::kF32;
      format.has_zeros = source.has_zero;
      format.fixed_zero = unsigned_offset(source.weight);
      format.token_scales = source.token_scales;
    }
  } else if (is_integer(format.encoding)) {
    unsupported("integer weights without a scale");
  }
  format.finish();
  return format;
}

void pack_matrix(const PackedFormat& format, const SourceMatrix& source, std::span<std::byte> out) {
  check_internal(out.size() == format.bytes(), "packing: wrong output size");
  std::memset(out.data(), 0, out.size());
  if (!source.scale.empty() && format.scale == ScaleKind::kNone) return pack_dequantized(format, source, out);
  const Reader weights(source.weight, source, format.n, format.k);
  const auto offset = static_cast<uint32_t>(is_integer(format.encoding) ? unsigned_offset(source.weight.dtype()) : 0);
  const uint32_t mask = weights.bits() == 32 ? ~0u : (1u << weights.bits()) - 1u;
  for (int64_t p = 0; p < format.panels; ++p) {
    std::byte* panel = out.data() + static_cast<size_t>(p) * format.panel_bytes;
    if (format.scale != ScaleKind::kNone) pack_panel_scales(format, source, p * kPanel, panel);
    const int rows = static_cast<int>(std::min<int64_t>(kPanel, format.n - p * kPanel));
    for (int row = 0; row < rows; ++row) {
      const int64_t n = p * kPanel + row;
      for (int64_t k = 0; k < format.k; ++k) {
        put_weight(format, panel, row, k, (weights.at(n, k) + offset) & mask);
      }
    }
  }
}

}  // namespace edgewise::cpu
