// What is added to every row of a product becomes the product's bias.
#include "compiler/passes.h"

namespace edgewise {

int fuse_bias(Graph& graph) {
  const std::vector<int> uses = graph.use_counts();
  int fused = 0;
  for (size_t i = 0; i < graph.nodes().size(); ++i) {
    const Node& add = graph.nodes()[i];
    if (add.op != Op::kAdd) continue;
    const Value& product = graph.value(add.inputs[0]);
    const Value& bias = graph.value(add.inputs[1]);
    if (product.producer < 0 || !bias.is_constant() || bias.shape != Shape{product.shape.back()}) continue;
    Node& linear = graph.nodes()[static_cast<size_t>(product.producer)];
    const bool plain = linear.op == Op::kLinear && linear.outputs.size() == 1 && linear.inputs[4] == kNone;
    if (!plain || uses[static_cast<size_t>(add.inputs[0])] != 1) continue;
    linear.inputs[4] = add.inputs[1];
    graph.replace_uses(add.outputs[0], add.inputs[0]);
    ++fused;
  }
  return fused;
}

}  // namespace edgewise
