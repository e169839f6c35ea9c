// The constants of operators on the device.
#include "backends/cuda/ops.h"

namespace edgewise::cuda {
namespace {

bool is_plain_table(const Graph& graph, const Node& node) {
  const DType dtype = graph.value(node.inputs[1]).dtype;
  const bool scaled = node.inputs.size() >= 3 && node.inputs[2] != kNone;
  return node.op == Op::kEmbedding && !scaled && (dtype == DType::kF16 || dtype == DType::kBF16);
}

}  // namespace

// Packed weights and plain tables lie there as they are, all else as float32 or int32.
size_t constant_bytes(const Graph& graph, const Node& node) {
  const bool is_packed = node.op == Op::kLinear || node.op == Op::kMoe;
  size_t bytes = 0;
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    if (node.inputs[i] == kNone || !graph.value(node.inputs[i]).is_constant()) continue;
    if (node.op == Op::kEmbedding && i > 1) continue;  // the scales have gone into the table
    const Value& value = graph.value(node.inputs[i]);
    const auto count = static_cast<size_t>(element_count(value.shape));
    const bool raw = (is_packed && value.dtype == DType::kU8) || (i == 1 && is_plain_table(graph, node));
    bytes += DeviceArena::rounded(raw ? byte_size(value.dtype, count) : count * sizeof(float));
  }
  return bytes;
}

DeviceBytes float_constant(const BuildContext& context, const Node& node, size_t index) {
  if (index >= node.inputs.size() || node.inputs[index] == kNone) return {};
  const auto values = context.graph().constant(node.inputs[index]).to_floats();
  return context.keep(std::as_bytes(std::span(values)));
}

}  // namespace edgewise::cuda
