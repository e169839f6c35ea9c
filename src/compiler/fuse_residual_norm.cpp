// x + block and the RMS norm of the sum in one sweep; the sum stays, as the next residual needs it.
#include "compiler/passes.h"

namespace edgewise {

int fuse_residual_norm(Graph& graph) {
  int fused = 0;
  const size_t count = graph.nodes().size();
  for (size_t i = 0; i < count; ++i) {
    const Node norm = graph.nodes()[i];
    if (norm.op != Op::kRmsNorm) continue;
    const Value& sum = graph.value(norm.inputs[0]);
    const Shape& weight = graph.value(norm.inputs[1]).shape;
    if (sum.producer < 0 || weight[0] != sum.shape[1]) continue;
    const Node add = graph.nodes()[static_cast<size_t>(sum.producer)];
    if (add.op != Op::kAdd || graph.value(add.inputs[1]).shape != sum.shape) continue;
    const auto outputs = graph.add_node(Op::kAddRmsNorm, norm.name + ".residual",
                                        {add.inputs[0], add.inputs[1], norm.inputs[1]}, norm.attributes);
    graph.replace_uses(add.outputs[0], outputs[0]);
    graph.replace_uses(norm.outputs[0], outputs[1]);
    ++fused;
  }
  return fused;
}

}  // namespace edgewise
