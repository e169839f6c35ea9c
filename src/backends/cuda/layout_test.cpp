// Packed weights, read back by the rule in encoding.h and layout.h. Needs no GPU.
#include "backends/cuda/layout.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "backends/cuda/backend.h"
#include "backends/test_model.h"
#include "base/error.h"
#include "graph/weight_rows.h"

namespace edgewise::cuda {
namespace {

// What the tensor cores multiply with, from packed bytes: element (row, column).
double element(const WeightFormat& f, const std::byte* packed, int64_t row, int64_t column) {
  const int64_t r = row % 16, c = column % 64;
  const int64_t lane = r % 8 * 4 + c / 16, tile = c % 16 / 4, reg = c % 4 / 2 * 2 + r / 8, half = c % 2;
  const std::byte* chunk = packed + (row / 16 * f.chunks() + column / 64) * f.chunk_bytes();
  const auto byte = [&](int64_t i) { return static_cast<uint8_t>(chunk[i]); };
  const int64_t scale_column = f.scaling == Scaling::kRow ? 0 : column / f.block;
  const int64_t at = (row / 16 * f.scale_columns() + scale_column) * 16 + r % 8 * 2 + r / 8;
  double value = 0;
  if (f.encoding == Encoding::kF32) {
    float bits = 0;
    std::memcpy(&bits, packed + (row * f.chunks() * 64 + column) * 4, 4);
    value = bits;
  } else if (f.encoding == Encoding::kF16 || f.encoding == Encoding::kBF16) {
    uint16_t bits = 0;
    std::memcpy(&bits, chunk + (tile * 32 + lane) * 16 + reg * 4 + half * 2, 2);
    value = f.encoding == Encoding::kF16 ? f16_to_float(bits) : bf16_to_float(bits);
  } else if (f.encoding == Encoding::kF8 || f.encoding == Encoding::kInt8) {
    const bool is_f8 = f.encoding == Encoding::kF8;
    const int64_t in_word = is_f8 ? reg / 2 * 2 + half : half * 2 + reg / 2;
    const uint8_t bits = byte((tile / 2 * 32 + lane) * 16 + tile % 2 * 8 + reg % 2 * 4 + in_word);
    value = is_f8 ? double{f8e4m3_to_float(bits)} : bits - 128.0;
    if (f.zeros) value += 128;
  } else {
    const int64_t nibble = reg + 4 * half;
    const uint8_t bits = (byte(lane * 16 + tile * 4 + nibble / 2) >> (nibble % 2 * 4)) & 15;
    value = f.encoding == Encoding::kF4 ? f4e2m1_to_float(bits) / 16384.0 : bits - 8.0;
    if (f.zeros) value += 8;
  }
  const auto half_at = [&](size_t offset) {
    uint16_t bits = 0;
    std::memcpy(&bits, packed + offset + at * 2, 2);
    return double{f16_to_float(bits)};
  };
  const auto float_at = [&](size_t offset, int64_t i) {
    float v = 0;
    std::memcpy(&v, packed + offset + i * 4, 4);
    return double{v};
  };
  if (f.zeros) value -= half_at(f.zeros_offset());
  if (f.scaling == Scaling::kLanes) value *= half_at(f.scales_offset());
  if (f.scaling == Scaling::kChunks) value *= float_at(f.scales_offset(), at);
  return value * float_at(f.factors_offset(), row);
}

TEST(CudaLayout, KeepsWhatWeightsMean) {
  TestModel model;
  for (const DType weight : {DType::kF32, DType::kF16, DType::kBF16, DType::kF8E4M3, DType::kF4E2M1, DType::kI8,
                             DType::kU8, DType::kI4, DType::kU4}) {
    for (const int64_t block : {16, 24, 64, 1000}) {
      model.weight = weight;
      model.block = block;
      model.zeros = weight == DType::kU4;
      model.transposed = block != 64;
      const Graph graph = model.build();
      const Graph packed_graph = packed(graph, CudaBackend());
      for (size_t i = 0; i < graph.nodes().size(); ++i) {
        const Node& node = graph.nodes()[i];
        if (node.op != Op::kLinear) continue;
        const auto formats = formats_of(packed_graph, packed_graph.nodes()[i]);
        for (size_t part = 0; part < formats.size(); ++part) {
          const WeightRows rows(graph, node, 1 + part * 4);
          std::vector<float> expected(static_cast<size_t>(rows.n() * rows.k()));
          rows.read(0, rows.n(), expected);
          const Tensor bytes = packed_graph.constant(packed_graph.nodes()[i].inputs[1 + part * 4]);
          ASSERT_EQ(bytes.bytes().size(), formats[part].bytes());
          for (int64_t n = 0; n < rows.n(); ++n) {
            for (int64_t k = 0; k < rows.k(); ++k) {
              const double wanted = expected[static_cast<size_t>(n * rows.k() + k)];
              const double found = element(formats[part], bytes.bytes().data(), n, k);
              ASSERT_NEAR(found, wanted, std::fabs(wanted) * 2e-3 + 1e-7)
                  << node.name << " " << formats[part].text() << " " << n << " " << k;
            }
          }
          if (formats[part].encoding == Encoding::kF32) continue;
          // Divided by this they stand in halves as normal numbers.
          const double unit = formats[part].half_unit(bytes.bytes());
          double largest = 0;
          const bool as_it_is = weight == DType::kF16 || weight == DType::kBF16;
          for (int64_t n = 0; n < rows.n(); ++n) {
            for (int64_t k = 0; k < rows.k(); ++k)
              largest = std::max(largest, std::fabs(element(formats[part], bytes.bytes().data(), n, k)));
          }
          EXPECT_EQ(unit == 1, as_it_is) << formats[part].text();
          EXPECT_LT(largest / unit, 65504) << formats[part].text();
          EXPECT_GT(largest / unit, as_it_is ? 0 : 256) << formats[part].text();
        }
      }
    }
  }
}

// Blocks of a row that share their scale have it once.
TEST(CudaLayout, OneScaleForARowOfEquals) {
  for (const bool transposed : {false, true}) {
    for (const bool alike : {false, true}) {
      Graph graph = parse_graph(transposed ? R"(graph g
input %ids : i32[tokens]
const %table : f32[8, 256]
const %w : i8[32, 256]
const %s : f32[32, 4]
%x = embedding(%ids, %table) : f32[tokens, 256]
%y = linear(%x, %w, %s, %none, %none) {block=64, transposed=1} : f32[tokens, 32]
output %y
)"
                                           : R"(graph g
input %ids : i32[tokens]
const %table : f32[8, 256]
const %w : i8[256, 32]
const %s : f32[4, 32]
%x = embedding(%ids, %table) : f32[tokens, 256]
%y = linear(%x, %w, %s, %none, %none) {block=64, transposed=0} : f32[tokens, 32]
output %y
)");
      graph.value(graph.find_value("s")).constant = [=] {
        std::vector<float> scales(128);
        for (size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<float>(1 + (transposed ? i / 4 : i % 32));
        if (!alike) scales[77] += 1;
        return Tensor::from_floats(DType::kF32, transposed ? Shape{32, 4} : Shape{4, 32}, scales);
      };
      pack_node(graph, static_cast<NodeId>(1));
      const WeightFormat format = formats_of(graph, graph.nodes()[1])[0];
      EXPECT_EQ(format.scaling == Scaling::kRow, alike);
      if (!alike) continue;
      const Tensor packed = graph.constant(graph.nodes()[1].inputs[1]);
      const auto* factors = reinterpret_cast<const float*>(packed.bytes().data() + format.factors_offset());
      for (int64_t n = 0; n < 32; ++n) EXPECT_EQ(factors[n], static_cast<float>(n + 1));
    }
  }
}

TEST(CudaLayout, TextSaysAll) {
  for (const char* text : {"mma-f32:row", "mma-int4:chunks:zeros", "mma-f4e2m1:lanes", "mma-int8:row:token"})
    EXPECT_EQ(WeightFormat::parse(text, 3, 70, 70).text(), text);
  EXPECT_THROW(WeightFormat::parse("t16-int8:row", 3, 70, 70), Error);
  EXPECT_THROW(WeightFormat::parse("", 3, 70, 70), Error);
}

}  // namespace
}  // namespace edgewise::cuda
