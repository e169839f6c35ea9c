// Which format a node's weights get, and the node with its weights packed.
#include <algorithm>
#include <optional>
#include <sstream>
#include <vector>

#include "backends/cuda/layout.h"
#include "base/error.h"
#include "base/thread_pool.h"

namespace edgewise::cuda {
namespace {

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

}  // namespace edgewise::cuda
