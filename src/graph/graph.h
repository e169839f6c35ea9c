// The one description of a model between its stages: SSA values with dtype and shape, nodes with a closed
// set of operators. Quantizer, exporter, builder and backends see this and never ask for the family.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/tensor.h"
#include "graph/op.h"

namespace edgewise {

using ValueId = int32_t;
using NodeId = int32_t;
inline constexpr ValueId kNone = -1;  // an optional input left out

// Symbolic dimensions. N tokens of a step, gathered from any mix of sequences; R of them need logits.
inline constexpr int64_t kTokens = -1;
inline constexpr int64_t kRows = -2;

// The graph input of activations: of graphs that go on from another one's, such as a draft head or a piece of a model.
inline constexpr std::string_view kHiddenInput = "hidden_states";

using Attribute = std::variant<int64_t, double, std::string, std::vector<int64_t>>;
using Attributes = std::map<std::string, Attribute>;

// A constant's bytes, produced when asked for, so that a stage holds a few weights at a time and not the model.
using ConstantLoader = std::function<Tensor()>;

struct Value {
  std::string name;  // unique in its graph
  DType dtype = DType::kF32;
  Shape shape;
  NodeId producer = -1;     // -1 for inputs and constants
  ConstantLoader constant;  // set for constants only

  bool is_constant() const { return static_cast<bool>(constant); }
};

struct Node {
  Op op;
  std::string name;  // stands in every error; for a Linear, the checkpoint's module path
  std::vector<ValueId> inputs;
  std::vector<ValueId> outputs;
  Attributes attributes;

  // Throw Error(kInternal) when the attribute is absent or of another type, unless a fallback is given.
  int64_t integer(const std::string& key) const;
  int64_t integer(const std::string& key, int64_t fallback) const;
  double number(const std::string& key) const;
  double number(const std::string& key, double fallback) const;
  std::string text(const std::string& key, const std::string& fallback = "") const;
  const std::vector<int64_t>& integers(const std::string& key) const;
  bool has(const std::string& key) const { return attributes.contains(key); }
};

// Nodes stand in topological order. Ids stay valid until compact().
class Graph {
 public:
  std::string name;

  ValueId add_input(std::string name, DType dtype, Shape shape);
  ValueId add_constant(std::string name, Tensor tensor);
  ValueId add_constant(std::string name, DType dtype, Shape shape, ConstantLoader loader);
  // Checks the inputs against the operator's rules and infers its outputs; throws Error(kInternal) naming the
  // node otherwise. Value names derive from `name`.
  std::vector<ValueId> add_node(Op op, std::string name, std::vector<ValueId> inputs, Attributes attributes = {});
  // For the operators with one output.
  ValueId add(Op op, std::string name, std::vector<ValueId> inputs, Attributes attributes = {});
  void mark_output(ValueId value) { outputs_.push_back(value); }

  const Value& value(ValueId id) const { return values_.at(static_cast<size_t>(id)); }
  Value& value(ValueId id) { return values_.at(static_cast<size_t>(id)); }
  const std::vector<Value>& values() const { return values_; }
  const std::vector<Node>& nodes() const { return nodes_; }
  std::vector<Node>& nodes() { return nodes_; }
  const std::vector<ValueId>& inputs() const { return inputs_; }
  const std::vector<ValueId>& outputs() const { return outputs_; }
  std::vector<ValueId>& outputs() { return outputs_; }

  // kNone when there is none of that name.
  ValueId find_value(std::string_view name) const;
  Tensor constant(ValueId id) const;
  // How many node inputs and graph outputs read each value.
  std::vector<int> use_counts() const;
  void replace_uses(ValueId from, ValueId to);
  // Drops nodes whose outputs nobody reads and values nobody names, sorts topologically, renumbers.
  void compact();

 private:
  friend Graph parse_graph(std::string_view text);
  std::string unique_name(const std::string& wanted) const;
  ValueId add_value(Value value);

  std::vector<Value> values_;
  std::vector<Node> nodes_;
  std::vector<ValueId> inputs_;
  std::vector<ValueId> outputs_;
  std::map<std::string, ValueId, std::less<>> names_;
};

// What an operator's outputs are, given its inputs: the shape rules of docs/operators.md.
struct ValueType {
  DType dtype;
  Shape shape;
};
std::vector<ValueType> infer_outputs(const Graph& graph, const Node& node);

// Checks every node again, that the order is topological and each value is made once. Throws Error(kInternal).
void verify_graph(const Graph& graph);

// The text form, one line a value; constants without their bytes. parse_graph(print_graph(g)) prints the same.
std::string print_graph(const Graph& graph);
// Constants parsed from text load as zeros. Throws Error(kBadFile) with the line.
Graph parse_graph(std::string_view text);

}  // namespace edgewise
