#include "grammar/graph.h"

#include <algorithm>

#include "base/error.h"

namespace edgewise::grammar {

NodeId Graph::add(Node node) {
  if (nodes_.size() >= kMaxNodes) usage_error("the grammar is too large: more than {} places", kMaxNodes);
  nodes_.push_back(std::move(node));
  return static_cast<NodeId>(nodes_.size() - 1);
}

NodeId Graph::terminal(Regex regex, NodeId next) {
  if (regex == kEmpty) return next;
  return add({.kind = NodeKind::kTerminal, .value = regex, .next = next});
}

NodeId Graph::call(RuleId rule, NodeId next) { return add({.kind = NodeKind::kCall, .value = rule, .next = next}); }

NodeId Graph::split(std::vector<NodeId> options) {
  if (options.size() == 1) return options[0];
  return add({.kind = NodeKind::kSplit, .options = std::move(options)});
}

NodeId Graph::repeat(NodeId body, uint32_t min, uint32_t max, NodeId next) {
  if (max == 0) return next;
  return add({.kind = NodeKind::kRepeat, .value = body, .next = next, .min = min, .max = max});
}

RuleId Graph::add_rule() {
  starts_.push_back(kReturn);
  return static_cast<RuleId>(starts_.size() - 1);
}

namespace {

// Who has to be looked at again when a node is found to come to an end.
std::vector<std::vector<NodeId>> dependents(const Graph& graph) {
  std::vector<std::vector<NodeId>> out(graph.size());
  for (NodeId id = 0; id < graph.size(); ++id) {
    const Node& node = graph.node(id);
    if (node.kind == NodeKind::kReturn) continue;
    if (node.kind == NodeKind::kSplit) {
      for (const NodeId option : node.options) out[option].push_back(id);
      continue;
    }
    out[node.next].push_back(id);
    if (node.kind == NodeKind::kRepeat) out[node.value].push_back(id);
    if (node.kind == NodeKind::kCall) out[graph.start(node.value)].push_back(id);
  }
  return out;
}

}  // namespace

bool Graph::prune(RegexPool& pool) {
  std::vector<bool> ends(nodes_.size());
  const auto comes_to_end = [&](NodeId id) {
    const Node& node = nodes_[id];
    switch (node.kind) {
      case NodeKind::kReturn:
        return true;
      case NodeKind::kTerminal:
        return ends[node.next] && pool.matches_something(node.value);
      case NodeKind::kCall:
        return ends[node.next] && ends[starts_[node.value]];
      case NodeKind::kSplit:
        return std::ranges::any_of(node.options, [&](NodeId option) { return ends[option]; });
      case NodeKind::kRepeat:
        return ends[node.next] && (node.min == 0 || ends[node.value]);
    }
    return false;
  };
  const auto users = dependents(*this);
  std::vector<NodeId> queue(nodes_.size());
  for (NodeId id = 0; id < nodes_.size(); ++id) queue[id] = id;
  while (!queue.empty()) {
    const NodeId id = queue.back();
    queue.pop_back();
    if (ends[id] || !comes_to_end(id)) continue;
    ends[id] = true;
    queue.insert(queue.end(), users[id].begin(), users[id].end());
  }
  for (Node& node : nodes_) {
    std::erase_if(node.options, [&](NodeId option) { return !ends[option]; });
    if (node.kind == NodeKind::kRepeat && !ends[node.value]) node.max = 0;
  }
  return ends[starts_[0]];
}

}  // namespace edgewise::grammar
