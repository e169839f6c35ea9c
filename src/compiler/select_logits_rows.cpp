// Prefill needs the logits of its last token only: the head and the norm before it run on selected rows.
#include "compiler/passes.h"

namespace edgewise {
namespace {

// Nodes that map each row of their one activation to a row.
bool is_row_wise(const Graph& graph, const Node& node) {
  if (node.op == Op::kAttention || node.op == Op::kEmbedding || node.op == Op::kRotary || node.op == Op::kSelectRows ||
      node.outputs.size() != 1) {
    return false;
  }
  for (size_t i = 1; i < node.inputs.size(); ++i) {
    if (node.inputs[i] != kNone && !graph.value(node.inputs[i]).is_constant()) return false;
  }
  return true;
}

}  // namespace

int select_logits_rows(Graph& graph) {
  const auto uses = graph.use_counts();
  std::vector<NodeId> tail;  // from the logits backwards
  ValueId at = graph.outputs().at(0);
  while (graph.value(at).producer >= 0 && uses[static_cast<size_t>(at)] == 1) {
    const NodeId id = graph.value(at).producer;
    if (!is_row_wise(graph, graph.nodes()[static_cast<size_t>(id)])) break;
    tail.push_back(id);
    at = graph.nodes()[static_cast<size_t>(id)].inputs[0];
  }
  if (tail.empty() || graph.value(at).shape[0] != kTokens) return 0;
  const ValueId selected = graph.add(Op::kSelectRows, "logits_rows", {at});
  graph.nodes()[static_cast<size_t>(tail.back())].inputs[0] = selected;
  for (const NodeId id : tail) graph.value(graph.nodes()[static_cast<size_t>(id)].outputs[0]).shape[0] = kRows;
  return 1;
}

}  // namespace edgewise
