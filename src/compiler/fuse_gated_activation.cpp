// silu(gate) * up and gelu(gate) * up in one sweep over both.
#include "compiler/passes.h"

namespace edgewise {

int fuse_gated_activation(Graph& graph) {
  const auto uses = graph.use_counts();
  int fused = 0;
  const size_t count = graph.nodes().size();
  for (size_t i = 0; i < count; ++i) {
    const Node product = graph.nodes()[i];
    if (product.op != Op::kMul) continue;
    for (size_t side = 0; side < 2; ++side) {
      const ValueId activated = product.inputs[side];
      const NodeId producer = graph.value(activated).producer;
      if (producer < 0 || uses[static_cast<size_t>(activated)] != 1) continue;
      const Node inner = graph.nodes()[static_cast<size_t>(producer)];
      if (inner.op != Op::kSilu && inner.op != Op::kGelu) continue;
      const ValueId up = product.inputs[1 - side];
      if (graph.value(up).shape != graph.value(activated).shape) continue;
      const ValueId result = graph.add(inner.op == Op::kSilu ? Op::kSwiGlu : Op::kGeGlu, product.name + ".gated",
                                       {inner.inputs[0], up}, inner.attributes);
      graph.replace_uses(product.outputs[0], result);
      ++fused;
      break;
    }
  }
  return fused;
}

}  // namespace edgewise
