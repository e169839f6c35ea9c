// Linears that read the same activation become one node with several outputs: one sweep over x, one barrier.
#include <map>

#include "compiler/passes.h"
#include "graph/low_rank.h"

namespace edgewise {
namespace {

bool same_format(const Graph& graph, const Node& a, const Node& b) {
  if (a.attributes != b.attributes) return false;
  for (size_t i = 1; i <= 3; ++i) {  // weight, scale, zero
    const bool given = a.inputs[i] != kNone;
    if (given != (b.inputs[i] != kNone)) return false;
    if (given && graph.value(a.inputs[i]).dtype != graph.value(b.inputs[i]).dtype) return false;
  }
  return true;
}

}  // namespace

int merge_linears(Graph& graph) {
  std::map<ValueId, std::vector<NodeId>> by_input;
  for (size_t i = 0; i < graph.nodes().size(); ++i) {
    const Node& node = graph.nodes()[i];
    if (node.op == Op::kLinear && node.outputs.size() == 1) by_input[node.inputs[0]].push_back(static_cast<NodeId>(i));
  }
  int merged = 0;
  for (const auto& [x, ids] : by_input) {
    std::vector<NodeId> group;
    for (const NodeId id : ids) {
      const auto& nodes = graph.nodes();
      if (group.empty() || same_format(graph, nodes[size_t(group[0])], nodes[size_t(id)])) group.push_back(id);
    }
    if (group.size() < 2) continue;
    std::vector<ValueId> inputs{x};
    std::vector<ValueId> old_outputs;
    std::string name;
    std::string modules;
    for (const NodeId id : group) {
      const Node& node = graph.nodes()[static_cast<size_t>(id)];
      inputs.insert(inputs.end(), node.inputs.begin() + 1, node.inputs.end());
      old_outputs.push_back(node.outputs[0]);
      const size_t last = node.name.rfind('.') + 1;  // npos + 1 is 0
      name += name.empty() ? node.name : "+" + node.name.substr(last);
      modules += (modules.empty() ? "" : " ") + node.name;
    }
    Attributes attributes = graph.nodes()[static_cast<size_t>(group[0])].attributes;
    attributes[kModulesAttribute] = modules;
    const auto outputs = graph.add_node(Op::kLinear, name, std::move(inputs), std::move(attributes));
    for (size_t i = 0; i < outputs.size(); ++i) graph.replace_uses(old_outputs[i], outputs[i]);
    ++merged;
  }
  return merged;
}

}  // namespace edgewise
