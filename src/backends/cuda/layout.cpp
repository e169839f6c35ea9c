#include "backends/cuda/layout.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <optional>
#include <sstream>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"

namespace edgewise::cuda {
namespace {

constexpr std::array<std::string_view, 7> kEncodingNames = {"f32", "f16", "bf16", "f8e4m3", "int8", "int4", "f4e2m1"};
constexpr std::array<std::string_view, 3> kScalingNames = {"row", "chunks", "lanes"};

// Kernels put the bits of small floats into halves where they stand, which divides by a power of two. Scales of lanes
// take part of it back, so that products stay normal numbers.
constexpr float kF8Factor = 256;
constexpr float kF4Factor = 16384;

float encoding_factor(Encoding encoding) {
  return encoding == Encoding::kF8 ? kF8Factor : encoding == Encoding::kF4 ? kF4Factor : 1.0f;
}

std::optional<Encoding> encoding_of(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return Encoding::kF16;
    case DType::kBF16:
      return Encoding::kBF16;
    case DType::kF8E4M3:
      return Encoding::kF8;
    case DType::kI8:
    case DType::kU8:
      return Encoding::kInt8;
    case DType::kI4:
    case DType::kU4:
      return Encoding::kInt4;
    case DType::kF4E2M1:
      return Encoding::kF4;
    default:
      return std::nullopt;
  }
}

bool is_integer(Encoding encoding) { return encoding == Encoding::kInt8 || encoding == Encoding::kInt4; }

// Integers are stored unsigned: what is added to a stored value of this type.
uint32_t unsigned_offset(DType dtype) { return dtype == DType::kI8 ? 128 : dtype == DType::kI4 ? 8 : 0; }

// Elements of a source by (row, column of k), whatever their order.
class Reader {
 public:
  Reader(const Tensor& tensor, const SourceMatrix& source, int64_t rows, int64_t columns)
      : tensor_(tensor),
        first_(source.index * rows * columns),
        row_stride_(source.transposed ? columns : 1),
        column_stride_(source.transposed ? 1 : rows) {
    check_internal(tensor.count() >= (source.index + 1) * rows * columns, "packing: a source has another shape");
  }
  // The bits of neighbours in a row.
  template <int kBits>
  void read_codes(int64_t row, int64_t column, std::span<uint16_t> to) const {
    const std::byte* data = tensor_.bytes().data();
    auto index = static_cast<size_t>(first_ + row * row_stride_ + column * column_stride_);
    for (uint16_t& code : to) {
      if constexpr (kBits == 4)
        code = static_cast<uint16_t>(std::to_integer<unsigned>(data[index / 2]) >> (index % 2 * 4) & 15u);
      else if constexpr (kBits == 8)
        code = std::to_integer<uint16_t>(data[index]);
      else
        std::memcpy(&code, data + index * 2, 2);
      index += static_cast<size_t>(column_stride_);
    }
  }
  float at(int64_t row, int64_t column) const {
    float value = 0;
    to_float(tensor_.dtype(), tensor_.bytes(),
             static_cast<size_t>(first_ + row * row_stride_ + column * column_stride_), {&value, 1});
    return value;
  }

 private:
  const Tensor& tensor_;
  int64_t first_;
  int64_t row_stride_;
  int64_t column_stride_;
};

// Where an element of a chunk goes.
struct Place {
  int lane;
  int tile;
  int reg;   // of the operand's four
  int half;  // of the register
};

constexpr Place place_of(int row, int column) {
  const int in_tile = column % 4;
  return {row % 8 * 4 + column / 16, column % 16 / 4, in_tile / 2 * 2 + row / 8, in_tile % 2};
}

// Where in a chunk's bytes, or nibbles for 4 bits, an element stands.
constexpr int16_t offset_of(int bits, const Place& p) {
  if (bits == 16) return static_cast<int16_t>((p.tile * 32 + p.lane) * 16 + p.reg * 4 + p.half * 2);
  // Bytes of a word: first halves of two registers, then their second ones; nibbles: of four registers.
  if (bits == 8)
    return static_cast<int16_t>((p.tile / 2 * 32 + p.lane) * 16 + p.tile % 2 * 8 + p.reg / 2 * 4 + p.half * 2 +
                                p.reg % 2);
  return static_cast<int16_t>(2 * (p.lane * 16 + p.tile * 4) + p.reg + 4 * p.half);
}

template <int kBits>
constexpr auto kOffsets = [] {
  std::array<std::array<int16_t, kChunkColumns>, kBlockRows> offsets{};
  for (int row = 0; row < kBlockRows; ++row) {
    for (int column = 0; column < kChunkColumns; ++column)
      offsets[static_cast<size_t>(row)][static_cast<size_t>(column)] = offset_of(kBits, place_of(row, column));
  }
  return offsets;
}();

template <int kBits>
void put(std::byte* chunk, int row, std::span<const uint16_t> codes) {
  const auto& offsets = kOffsets<kBits>[static_cast<size_t>(row)];
  for (size_t i = 0; i < codes.size(); ++i) {
    const int at = offsets[i];
    if constexpr (kBits == 16)
      std::memcpy(chunk + at, &codes[i], 2);
    else if constexpr (kBits == 8)
      chunk[at] = static_cast<std::byte>(codes[i]);
    else
      chunk[at / 2] |= static_cast<std::byte>(codes[i] << (at % 2 * 4));
  }
}

// A layout that no tensor core reads: rows of what the weights stand for.
void pack_floats(const WeightFormat& format, const SourceMatrix& source, std::byte* out) {
  const Reader weights(source.weight, source, format.n, format.k);
  const int64_t block = source.scale.empty() ? format.k : source.block;
  const int64_t blocks = (format.k + block - 1) / block;
  for (int64_t n = 0; n < format.n; ++n) {
    auto* row = reinterpret_cast<float*>(out) + n * format.chunks() * kChunkColumns;
    for (int64_t k = 0; k < format.k; ++k) {
      float value = weights.at(n, k);
      if (!source.zero.empty()) value -= Reader(source.zero, source, format.n, blocks).at(n, k / block);
      if (!source.scale.empty()) value *= Reader(source.scale, source, format.n, blocks).at(n, k / block);
      row[k] = value;
    }
  }
}

// One block of rows, a whole chunk at a time.
template <int kBits>
void pack_block(const WeightFormat& format, const Reader& weights, uint32_t offset, int64_t block, std::byte* out) {
  constexpr uint32_t kMask = (1u << kBits) - 1u;
  std::array<uint16_t, kChunkColumns> codes;
  const int64_t first = block * kBlockRows;
  const auto rows = static_cast<int>(std::min(kBlockRows, format.n - first));
  for (int64_t k = 0; k < format.k; k += kChunkColumns) {
    const auto some = std::span(codes).first(static_cast<size_t>(std::min(kChunkColumns, format.k - k)));
    std::byte* chunk = out + (block * format.chunks() + k / kChunkColumns) * format.chunk_bytes();
    for (int row = 0; row < rows; ++row) {
      weights.read_codes<kBits>(first + row, k, some);
      for (uint16_t& code : some) code = static_cast<uint16_t>((code + offset) & kMask);
      put<kBits>(chunk, row, some);
    }
  }
}

void pack_weights(const WeightFormat& format, const SourceMatrix& source, ThreadPool& pool, std::byte* out) {
  const Reader weights(source.weight, source, format.n, format.k);
  const uint32_t offset = is_integer(format.encoding) ? unsigned_offset(source.weight.dtype()) : 0;
  const int bits = bit_width(source.weight.dtype());
  pool.run([&](int worker) {
    const Range blocks = share_of(format.row_blocks(), worker, pool.size());
    for (int64_t block = blocks.begin; block < blocks.end; ++block) {
      if (bits == 16) pack_block<16>(format, weights, offset, block, out);
      if (bits == 8) pack_block<8>(format, weights, offset, block, out);
      if (bits == 4) pack_block<4>(format, weights, offset, block, out);
    }
  });
}

// The power of two just above a row's scales: dividing by it is exact.
float row_unit(const Reader& scales, int64_t row, int64_t columns) {
  float largest = 0;
  for (int64_t b = 0; b < columns; ++b) largest = std::max(largest, std::fabs(scales.at(row, b)));
  int exponent = 0;
  std::frexp(largest, &exponent);
  return largest > 0 ? std::ldexp(1.0f, exponent) : 1.0f;
}

// Of rows [rows.begin, rows.end).
void pack_scales(const WeightFormat& format, const SourceMatrix& source, float global, Range rows, std::byte* out) {
  auto* factors = reinterpret_cast<float*>(out + format.factors_offset());
  const float factor = encoding_factor(format.encoding) * global;
  const int64_t columns = format.scale_columns();
  const auto index = [&](int64_t row, int64_t b) {
    return (row / kBlockRows * columns + b) * kBlockRows + row % 8 * 2 + row / 8 % 2;
  };
  if (!source.zero.empty()) {
    const Reader zeros(source.zero, source, format.n, columns);
    auto* to = reinterpret_cast<uint16_t*>(out + format.zeros_offset());
    const auto offset = static_cast<float>(unsigned_offset(source.weight.dtype()));
    for (int64_t n = rows.begin; n < rows.end; ++n) {
      for (int64_t b = 0; b < columns; ++b) to[index(n, b)] = float_to_f16(zeros.at(n, b) + offset);
    }
  }
  if (source.scale.empty()) {
    std::fill(factors + rows.begin, factors + rows.end, factor);
    return;
  }
  const int64_t stored = source.block > 0 ? (format.k + source.block - 1) / source.block : 1;
  const Reader scales(source.scale, source, format.n, stored);
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    if (format.scaling == Scaling::kRow) {
      factors[n] = factor * scales.at(n, 0);
    } else if (format.scaling == Scaling::kChunks) {
      factors[n] = factor;
      for (int64_t b = 0; b < columns; ++b)
        reinterpret_cast<float*>(out + format.scales_offset())[index(n, b)] = scales.at(n, b);
    } else {
      const float unit = row_unit(scales, n, columns);
      factors[n] = unit * global;
      for (int64_t b = 0; b < columns; ++b) {
        const float value = scales.at(n, b) / unit * encoding_factor(format.encoding);
        reinterpret_cast<uint16_t*>(out + format.scales_offset())[index(n, b)] = float_to_f16(value);
      }
    }
  }
}

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
                     : encoding == Encoding::kF8   ? 448 / kF8Factor
                                                   : 6 / kF4Factor;
  int exponent = 0;
  std::frexp(largest * largest_scale * code, &exponent);
  return largest * largest_scale > 0 ? std::ldexp(1.0f, exponent - 15) : 1.0f;
}

std::string WeightFormat::text() const {
  std::string text = fmt::format("t16-{}:{}", kEncodingNames[static_cast<size_t>(encoding)],
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

namespace {

// The format for the weight at `input`.
WeightFormat choose_format(const Graph& graph, const Node& node, size_t input) {
  const auto given = [&](size_t i) { return i < node.inputs.size() && node.inputs[i] != kNone; };
  const Value& weight = graph.value(node.inputs.at(input));
  const bool transposed = node.integer("transposed", 0) != 0;
  const size_t last = weight.shape.size() - 1;
  WeightFormat format;
  format.n = weight.shape[transposed ? last - 1 : last];
  format.k = weight.shape[transposed ? last : last - 1];
  format.token_scales = node.text("activation") == "int8";
  format.block = format.k;
  const auto encoding = encoding_of(weight.dtype);
  if (encoding && is_integer(*encoding) && !given(input + 1)) unsupported("integer weights without a scale");
  if (!encoding) return format;
  if (given(input + 1)) format.block = std::min(node.integer("block"), format.k);
  const bool is_unsigned = weight.dtype == DType::kU8 || weight.dtype == DType::kU4;
  format.zeros = given(input + 2) || is_unsigned;  // those without have theirs at 0
  const bool whole = format.block >= format.k;
  const bool fits = whole || format.block % 16 == 0;
  const bool is_float16 = *encoding == Encoding::kF16 || *encoding == Encoding::kBF16;
  const bool is_f4 = *encoding == Encoding::kF4;
  if (!fits || (format.zeros && !is_integer(*encoding)) || (is_float16 && given(input + 1)) ||
      (is_f4 && !given(input + 1))) {
    format.zeros = false;
    format.block = format.k;
    return format;  // float32, with the scales in it
  }
  format.encoding = *encoding;
  if (is_f4)
    format.scaling = Scaling::kLanes;  // kernels know no others
  else if (!whole)
    format.scaling = format.block % kChunkColumns == 0 ? Scaling::kChunks : Scaling::kLanes;
  return format;
}

// Where a node's matrices stand among its inputs.
struct Inputs {
  size_t first;
  size_t stride;
  size_t count;
};

Inputs inputs_of(const Node& node) {
  if (node.op == Op::kMoe) return {2, 3, 3};
  return {1, 4, (node.inputs.size() - 1) / 4};
}

ConstantLoader packing_loader(const Graph& graph, const Node& node, size_t input, const WeightFormat& format,
                              int64_t stack) {
  const auto loader = [&](size_t index) -> ConstantLoader {
    if (index >= node.inputs.size() || node.inputs[index] == kNone) return {};
    return graph.value(node.inputs[index]).constant;
  };
  return [weight = loader(input), scale = loader(input + 1), zero = loader(input + 2), format, stack,
          transposed = node.integer("transposed", 0) != 0, block = node.integer("block", 0),
          global_scale = node.number("global_scale", 1.0)] {
    SourceMatrix source{weight(), scale ? scale() : Tensor(), zero ? zero() : Tensor(), transposed, block, 0};
    Tensor packed = Tensor::zeros(DType::kU8, {static_cast<int64_t>(format.bytes()) * stack});
    ThreadPool pool;
    for (; source.index < stack; ++source.index) {
      const auto at = static_cast<size_t>(source.index) * format.bytes();
      pack_matrix(format, source, global_scale, pool, packed.mutable_bytes().subspan(at, format.bytes()));
    }
    return packed;
  };
}

// Whether all scales of a row are the same, as those of a row's blocks are where a checkpoint has one for the row.
bool same_along_rows(const Graph& graph, const Node& node, size_t input) {
  const bool transposed = node.integer("transposed", 0) != 0;
  const Tensor scale = graph.constant(node.inputs[input + 1]);
  const std::vector<float> values = scale.to_floats();
  const auto blocks = static_cast<size_t>(scale.dim(transposed ? 1 : 0));
  const size_t rows = values.size() / blocks;
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] != values[transposed ? i / blocks * blocks : i % rows]) return false;
  }
  return true;
}

// Of a node that is not packed yet: one scale a row where that says the same as many.
std::vector<WeightFormat> simplest_formats(const Graph& graph, const Node& node) {
  std::vector<WeightFormat> formats = formats_of(graph, node);
  const Inputs inputs = inputs_of(node);
  for (size_t i = 0; i < formats.size(); ++i) {
    const bool simple = node.op == Op::kLinear && formats[i].scaling == Scaling::kChunks && !formats[i].zeros &&
                        same_along_rows(graph, node, inputs.first + i * inputs.stride);
    if (!simple) return formats;  // all matrices of a node have one format
  }
  for (WeightFormat& format : formats) {
    format.scaling = Scaling::kRow;
    format.block = format.k;
  }
  return formats;
}

}  // namespace

std::vector<WeightFormat> formats_of(const Graph& graph, const Node& node) {
  const Inputs inputs = inputs_of(node);
  std::vector<WeightFormat> formats;
  std::istringstream texts(node.text("packed"));
  for (size_t i = 0; i < inputs.count; ++i) {
    if (!node.has("packed")) {
      formats.push_back(choose_format(graph, node, inputs.first + i * inputs.stride));
      continue;
    }
    const std::vector<int64_t>& n = node.integers("n");
    const int64_t k = node.op == Op::kMoe && i == 2 ? n.front() : node.integer("k");
    std::string text;
    std::getline(texts, text, ';');
    formats.push_back(WeightFormat::parse(text, n.at(i), k, node.integers("blocks").at(i)));
  }
  return formats;
}

void pack_node(Graph& graph, NodeId id) {
  Node& node = graph.nodes().at(static_cast<size_t>(id));
  if ((node.op != Op::kLinear && node.op != Op::kMoe) || node.has("packed")) return;
  const Inputs inputs = inputs_of(node);
  const std::vector<WeightFormat> formats = simplest_formats(graph, node);
  const int64_t stack = node.op == Op::kMoe ? graph.value(node.inputs.at(2)).shape.at(0) : 1;
  std::string texts;
  std::vector<int64_t> n;
  std::vector<int64_t> blocks;
  for (size_t i = 0; i < inputs.count; ++i) {
    const size_t input = inputs.first + i * inputs.stride;
    node.inputs[input] = graph.add_constant(graph.value(node.inputs[input]).name + ".packed", DType::kU8,
                                            {static_cast<int64_t>(formats[i].bytes()) * stack},
                                            packing_loader(graph, node, input, formats[i], stack));
    node.inputs[input + 1] = kNone;
    node.inputs[input + 2] = kNone;
    texts += formats[i].text() + ";";
    n.push_back(formats[i].n);
    blocks.push_back(formats[i].block);
  }
  node.attributes["packed"] = texts;
  node.attributes["k"] = formats[0].k;
  node.attributes["n"] = n;
  node.attributes["blocks"] = blocks;
}

void pack_matrix(const WeightFormat& format, const SourceMatrix& source, double global_scale, ThreadPool& pool,
                 std::span<std::byte> out) {
  check_internal(out.size() == format.bytes(), "packing: wrong output size");
  const auto global = static_cast<float>(global_scale);
  if (format.encoding != Encoding::kF32) {
    pack_weights(format, source, pool, out.data());
    return pool.run(
        [&](int worker) { pack_scales(format, source, global, share_of(format.n, worker, pool.size()), out.data()); });
  }
  pack_floats(format, source, out.data());
  std::fill_n(reinterpret_cast<float*>(out.data() + format.factors_offset()), format.n, global);
}

}  // namespace edgewise::cuda
