// Replaces a node's weights by packed constants that are made when they are asked for.
#include "backends/cpu/backend.h"
#include "backends/cpu/packed_matrix.h"
#include "base/error.h"

namespace edgewise::cpu {
namespace {

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

const Value* given(const Graph& graph, const Node& node, size_t input) {
  if (input >= node.inputs.size() || node.inputs[input] == kNone) return nullptr;
  return &graph.value(node.inputs[input]);
}

SourceTypes source_types(const Graph& graph, const Node& node, size_t input) {
  SourceTypes types;
  const Value& weight = graph.value(node.inputs.at(input));
  const size_t last = weight.shape.size() - 1;
  const bool transposed = node.integer("transposed", 0) != 0;
  types.weight = weight.dtype;
  types.n = weight.shape[transposed ? last - 1 : last];
  types.k = weight.shape[transposed ? last : last - 1];
  types.token_scales = node.text("activation") == "int8";
  if (const Value* scale = given(graph, node, input + 1)) {
    types.has_scale = true;
    types.scale = scale->dtype;
    types.block = node.integer("block");
    types.global_scale = node.number("global_scale", 1.0);
  }
  if (const Value* zero = given(graph, node, input + 2)) {
    types.has_zero = true;
    types.zero = zero->dtype;
  }
  return types;
}

ConstantLoader packing_loader(const Graph& graph, const Node& node, size_t input, const PackedFormat& format,
                              int64_t stack) {
  const auto loader = [&](size_t index) -> ConstantLoader {
    const Value* value = given(graph, node, index);
    return value == nullptr ? ConstantLoader() : value->constant;
  };
  const bool transposed = node.integer("transposed", 0) != 0;
  return [weight = loader(input), scale = loader(input + 1), zero = loader(input + 2), format, stack, transposed,
          block = node.integer("block", 0)] {
    SourceMatrix source;
    source.weight = weight();
    if (scale) source.scale = scale();
    if (zero) source.zero = zero();
    source.transposed = transposed;
    source.block = block;
    Tensor packed = Tensor::zeros(DType::kU8, {static_cast<int64_t>(format.bytes()) * stack});
    for (source.index = 0; source.index < stack; ++source.index) {
      pack_matrix(format, source,
                  packed.mutable_bytes().subspan(static_cast<size_t>(source.index) * format.bytes(), format.bytes()));
    }
    return packed;
  };
}

void pack_bias(Graph& graph, Node& node, size_t input) {
  const Value* bias = given(graph, node, input);
  if (bias == nullptr || bias->dtype == DType::kF32) return;
  node.inputs[input] = graph.add_constant(bias->name + ".f32", DType::kF32, bias->shape,
                                          [load = bias->constant] { return load().cast(DType::kF32); });
}

}  // namespace

std::vector<PackedFormat> formats_of(const Graph& graph, const Node& node) {
  const Inputs inputs = inputs_of(node);
  if (node.has("packed")) {
    const std::vector<int64_t>& n = node.integers("n");
    std::vector<int64_t> k(n.size(), node.integer("k"));
    if (node.op == Op::kMoe) k.back() = n.front();
    return packed_formats(node, n, k);
  }
  std::vector<PackedFormat> formats;
  for (size_t i = 0; i < inputs.count; ++i) {
    formats.push_back(choose_format(source_types(graph, node, inputs.first + i * inputs.stride)));
  }
  return formats;
}

void pack_node(Graph& graph, NodeId id) {
  Node& node = graph.nodes().at(static_cast<size_t>(id));
  if ((node.op != Op::kLinear && node.op != Op::kMoe) || node.has("packed")) return;
  const Inputs inputs = inputs_of(node);
  const std::vector<PackedFormat> formats = formats_of(graph, node);
  const int64_t stack = node.op == Op::kMoe ? graph.value(node.inputs.at(2)).shape.at(0) : 1;
  std::string text;
  std::vector<int64_t> n;
  bool alike = true;
  for (size_t i = 0; i < inputs.count; ++i) {
    const size_t input = inputs.first + i * inputs.stride;
    const std::string name = graph.value(node.inputs[input]).name;
    const ValueId packed =
        graph.add_constant(name + ".packed", DType::kU8, {static_cast<int64_t>(formats[i].bytes()) * stack},
                           packing_loader(graph, node, input, formats[i], stack));
    node.inputs[input] = packed;
    node.inputs[input + 1] = kNone;
    node.inputs[input + 2] = kNone;
    if (node.op == Op::kLinear) pack_bias(graph, node, input + 3);
    text += (i > 0 ? ";" : "") + formats[i].text();
    n.push_back(formats[i].n);
    alike = alike && formats[i].text() == formats[0].text();
  }
  node.attributes["packed"] = alike ? formats[0].text() : text;
  node.attributes["k"] = formats[0].k;
  node.attributes["n"] = n;
  if (node.op == Op::kMoe) node.attributes["experts"] = stack;
}

}  // namespace edgewise::cpu
