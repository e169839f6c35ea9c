// Weights from the order of a graph to that of layout.h.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "backends/cuda/layout.h"
#include "base/error.h"
#include "base/thread_pool.h"

namespace edgewise::cuda {
namespace {

float encoding_factor(Encoding encoding) { return encoding == Encoding::kF4 ? kF4Factor : 1.0f; }

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

constexpr int bits_of(Encoding encoding) {
  if (encoding == Encoding::kF16 || encoding == Encoding::kBF16) return 16;
  return encoding == Encoding::kF8 || encoding == Encoding::kInt8 ? 8 : 4;
}

// Where in a chunk's bytes, or nibbles for 4 bits, an element stands.
constexpr int16_t offset_of(Encoding encoding, const Place& p) {
  const int bits = bits_of(encoding);
  if (bits == 16) return static_cast<int16_t>((p.tile * 32 + p.lane) * 16 + p.reg * 4 + p.half * 2);
  if (bits == 4) return static_cast<int16_t>(2 * (p.lane * 16 + p.tile * 4) + p.reg + 4 * p.half);
  // A word has four columns of a row. Integers: the first halves of two registers, then the second ones, as nibbles
  // become when those of a row are masked; floats one register after the other, as they are converted.
  const int in_word = encoding == Encoding::kF8 ? p.reg / 2 * 2 + p.half : p.half * 2 + p.reg / 2;
  return static_cast<int16_t>((p.tile / 2 * 32 + p.lane) * 16 + p.tile % 2 * 8 + p.reg % 2 * 4 + in_word);
}

template <Encoding kEncoding>
constexpr auto kOffsets = [] {
  std::array<std::array<int16_t, kChunkColumns>, kBlockRows> offsets{};
  for (int row = 0; row < kBlockRows; ++row) {
    for (int column = 0; column < kChunkColumns; ++column)
      offsets[static_cast<size_t>(row)][static_cast<size_t>(column)] = offset_of(kEncoding, place_of(row, column));
  }
  return offsets;
}();

template <Encoding kEncoding>
void put(std::byte* chunk, int row, std::span<const uint16_t> codes) {
  constexpr int kBits = bits_of(kEncoding);
  const auto& offsets = kOffsets<kEncoding>[static_cast<size_t>(row)];
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
template <Encoding kEncoding>
void pack_block(const WeightFormat& format, const Reader& weights, uint32_t offset, int64_t block, std::byte* out) {
  constexpr int kBits = bits_of(kEncoding);
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
      put<kEncoding>(chunk, row, some);
    }
  }
}

void pack_weights(const WeightFormat& format, const SourceMatrix& source, ThreadPool& pool, std::byte* out) {
  const Reader weights(source.weight, source, format.n, format.k);
  const uint32_t offset = is_integer(format.encoding) ? unsigned_offset(source.weight.dtype()) : 0;
  const int bits = bits_of(format.encoding);
  const bool is_f8 = format.encoding == Encoding::kF8;
  pool.run([&](int worker) {
    const Range blocks = share_of(format.row_blocks(), worker, pool.size());
    for (int64_t block = blocks.begin; block < blocks.end; ++block) {
      if (bits == 16) pack_block<Encoding::kF16>(format, weights, offset, block, out);
      if (bits == 8 && is_f8) pack_block<Encoding::kF8>(format, weights, offset, block, out);
      if (bits == 8 && !is_f8) pack_block<Encoding::kInt8>(format, weights, offset, block, out);
      if (bits == 4) pack_block<Encoding::kInt4>(format, weights, offset, block, out);
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
