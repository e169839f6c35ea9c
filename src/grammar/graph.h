// A context-free grammar as a graph: terminals are regular expressions, edges say what comes next, calls enter rules.
// The parser follows it with a stack of the places to return to (parser.h). Front ends build it from the end backwards.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "grammar/regex_pool.h"

namespace edgewise::grammar {

using NodeId = uint32_t;
using RuleId = uint32_t;

enum class NodeKind : uint8_t {
  kReturn,    // the end of a rule or of a repeated body
  kTerminal,  // `value` is a regex
  kCall,      // `value` is a rule
  kSplit,     // any of the list; none: a dead end
  kRepeat,    // `value`, a node that ends in kReturn, `min` to `max` times
};

struct Node {
  NodeKind kind;
  uint32_t value = 0;
  NodeId next = 0;
  uint32_t min = 0;
  uint32_t max = 0;
  std::vector<NodeId> options{};
};

class Graph {
 public:
  static constexpr NodeId kReturn = 0;  // the node of that kind

  Graph() { nodes_.push_back({.kind = NodeKind::kReturn}); }

  NodeId terminal(Regex regex, NodeId next);
  NodeId call(RuleId rule, NodeId next);
  NodeId split(std::vector<NodeId> options);
  NodeId repeat(NodeId body, uint32_t min, uint32_t max, NodeId next);
  NodeId dead_end() { return split({}); }
  // For loops: a split first without options, which come later.
  void set_options(NodeId split, std::vector<NodeId> options) { nodes_[split].options = std::move(options); }

  RuleId add_rule();  // with a start to be set
  void set_start(RuleId rule, NodeId start) { starts_[rule] = start; }

  const Node& node(NodeId id) const { return nodes_[id]; }
  NodeId start(RuleId rule) const { return starts_[rule]; }
  size_t size() const { return nodes_.size(); }
  size_t rule_count() const { return starts_.size(); }

  // Removes every way that can never come to its end, as parts that match nothing or recursion without a way out. False
  // when nothing is left of rule 0.
  bool prune(RegexPool& pool);

 private:
  static constexpr size_t kMaxNodes = 500000;
  NodeId add(Node node);

  std::vector<Node> nodes_;
  std::vector<NodeId> starts_;  // of rules
};

}  // namespace edgewise::grammar
