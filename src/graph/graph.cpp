#include "graph/graph.h"

#include <algorithm>

#include "base/error.h"

namespace edgewise {
namespace {

[[noreturn]] void missing(const Node& node, const std::string& key) {
  fail(ErrorKind::kInternal, "{} {}: attribute {} is missing or of another type", op_name(node.op), node.name, key);
}

}  // namespace

int64_t Node::integer(const std::string& key) const {
  const auto it = attributes.find(key);
  if (it == attributes.end() || !std::holds_alternative<int64_t>(it->second)) missing(*this, key);
  return std::get<int64_t>(it->second);
}

int64_t Node::integer(const std::string& key, int64_t fallback) const { return has(key) ? integer(key) : fallback; }

double Node::number(const std::string& key) const {
  const auto it = attributes.find(key);
  if (it == attributes.end()) missing(*this, key);
  if (const auto* value = std::get_if<double>(&it->second)) return *value;
  return static_cast<double>(integer(key));
}

double Node::number(const std::string& key, double fallback) const { return has(key) ? number(key) : fallback; }

std::string Node::text(const std::string& key, const std::string& fallback) const {
  const auto it = attributes.find(key);
  if (it == attributes.end()) return fallback;
  if (!std::holds_alternative<std::string>(it->second)) missing(*this, key);
  return std::get<std::string>(it->second);
}

const std::vector<int64_t>& Node::integers(const std::string& key) const {
  const auto it = attributes.find(key);
  if (it == attributes.end() || !std::holds_alternative<std::vector<int64_t>>(it->second)) missing(*this, key);
  return std::get<std::vector<int64_t>>(it->second);
}

std::string Graph::unique_name(const std::string& wanted) const {
  if (!names_.contains(wanted)) return wanted;
  for (int suffix = 1;; ++suffix) {
    std::string name = fmt::format("{}.{}", wanted, suffix);
    if (!names_.contains(name)) return name;
  }
}

ValueId Graph::add_value(Value value) {
  value.name = unique_name(value.name);
  const auto id = static_cast<ValueId>(values_.size());
  names_.emplace(value.name, id);
  values_.push_back(std::move(value));
  return id;
}

ValueId Graph::add_input(std::string name, DType dtype, Shape shape) {
  const ValueId id = add_value({std::move(name), dtype, std::move(shape), -1, {}});
  inputs_.push_back(id);
  return id;
}

ValueId Graph::add_constant(std::string name, Tensor tensor) {
  const DType dtype = tensor.dtype();
  Shape shape = tensor.shape();
  return add_constant(std::move(name), dtype, std::move(shape), [tensor = std::move(tensor)] { return tensor; });
}

ValueId Graph::add_constant(std::string name, DType dtype, Shape shape, ConstantLoader loader) {
  return add_value({std::move(name), dtype, std::move(shape), -1, std::move(loader)});
}

std::vector<ValueId> Graph::add_node(Op op, std::string name, std::vector<ValueId> inputs, Attributes attributes) {
  Node node{op, std::move(name), std::move(inputs), {}, std::move(attributes)};
  const auto types = infer_outputs(*this, node);
  const auto id = static_cast<NodeId>(nodes_.size());
  for (size_t i = 0; i < types.size(); ++i) {
    std::string value_name = types.size() == 1 ? node.name : fmt::format("{}:{}", node.name, i);
    node.outputs.push_back(add_value({std::move(value_name), types[i].dtype, types[i].shape, id, {}}));
  }
  nodes_.push_back(std::move(node));
  return nodes_.back().outputs;
}

ValueId Graph::add(Op op, std::string name, std::vector<ValueId> inputs, Attributes attributes) {
  const auto outputs = add_node(op, std::move(name), std::move(inputs), std::move(attributes));
  check_internal(outputs.size() == 1, "Graph::add on an operator with several outputs");
  return outputs[0];
}

ValueId Graph::find_value(std::string_view name) const {
  const auto it = names_.find(name);
  return it == names_.end() ? kNone : it->second;
}

Tensor Graph::constant(ValueId id) const {
  const Value& v = value(id);
  check_internal(v.is_constant(), "value is not a constant");
  Tensor tensor = v.constant();
  if (tensor.dtype() != v.dtype || tensor.shape() != v.shape) {
    fail(ErrorKind::kInternal, "constant {}: declared {}{}, loaded {}{}", v.name, dtype_name(v.dtype),
         shape_text(v.shape), dtype_name(tensor.dtype()), shape_text(tensor.shape()));
  }
  return tensor;
}

std::vector<int> Graph::use_counts() const {
  std::vector<int> counts(values_.size(), 0);
  for (const Node& node : nodes_) {
    for (const ValueId input : node.inputs) {
      if (input != kNone) ++counts[static_cast<size_t>(input)];
    }
  }
  for (const ValueId output : outputs_) ++counts[static_cast<size_t>(output)];
  return counts;
}

void Graph::replace_uses(ValueId from, ValueId to) {
  for (Node& node : nodes_) std::replace(node.inputs.begin(), node.inputs.end(), from, to);
  std::replace(outputs_.begin(), outputs_.end(), from, to);
}

void Graph::compact() {
  // Depth first from the outputs: what is not reached is dead, and the order of leaving is topological.
  enum class Mark : uint8_t { kNew, kOpen, kDone };
  std::vector<Mark> marks(nodes_.size(), Mark::kNew);
  std::vector<NodeId> order;
  std::vector<std::pair<NodeId, size_t>> stack;
  const auto visit = [&](ValueId value) {
    const NodeId producer = value == kNone ? -1 : values_[static_cast<size_t>(value)].producer;
    if (producer < 0 || marks[static_cast<size_t>(producer)] == Mark::kDone) return;
    check_internal(marks[static_cast<size_t>(producer)] == Mark::kNew, "graph has a cycle");
    marks[static_cast<size_t>(producer)] = Mark::kOpen;
    stack.emplace_back(producer, 0);
  };
  for (const ValueId output : outputs_) {
    visit(output);
    while (!stack.empty()) {
      const NodeId id = stack.back().first;
      const Node& node = nodes_[static_cast<size_t>(id)];
      if (stack.back().second < node.inputs.size()) {
        visit(node.inputs[stack.back().second++]);
      } else {
        marks[static_cast<size_t>(id)] = Mark::kDone;
        order.push_back(id);
        stack.pop_back();
      }
    }
  }

  std::vector<bool> used(values_.size(), false);
  for (const ValueId input : inputs_) used[static_cast<size_t>(input)] = true;
  for (const NodeId id : order) {
    for (const ValueId v : nodes_[static_cast<size_t>(id)].inputs) {
      if (v != kNone) used[static_cast<size_t>(v)] = true;
    }
    for (const ValueId v : nodes_[static_cast<size_t>(id)].outputs) used[static_cast<size_t>(v)] = true;
  }
  std::vector<ValueId> renumbered(values_.size(), kNone);
  std::vector<Value> values;
  names_.clear();
  for (size_t i = 0; i < values_.size(); ++i) {
    if (!used[i]) continue;
    renumbered[i] = static_cast<ValueId>(values.size());
    names_.emplace(values_[i].name, renumbered[i]);
    values.push_back(std::move(values_[i]));
    values.back().producer = -1;
  }
  std::vector<Node> nodes;
  const auto renumber = [&](std::vector<ValueId>& ids) {
    for (ValueId& id : ids) id = id == kNone ? kNone : renumbered[static_cast<size_t>(id)];
  };
  for (const NodeId id : order) {
    nodes.push_back(std::move(nodes_[static_cast<size_t>(id)]));
    renumber(nodes.back().inputs);
    renumber(nodes.back().outputs);
    for (const ValueId output : nodes.back().outputs) {
      values[static_cast<size_t>(output)].producer = static_cast<NodeId>(nodes.size() - 1);
    }
  }
  renumber(inputs_);
  renumber(outputs_);
  values_ = std::move(values);
  nodes_ = std::move(nodes);
}

void verify_graph(const Graph& graph) {
  std::vector<bool> defined(graph.values().size(), false);
  for (const ValueId input : graph.inputs()) defined[static_cast<size_t>(input)] = true;
  for (size_t i = 0; i < defined.size(); ++i) {
    if (graph.values()[i].is_constant()) defined[i] = true;
  }
  for (const Node& node : graph.nodes()) {
    for (const ValueId input : node.inputs) {
      if (input != kNone && !defined.at(static_cast<size_t>(input))) {
        fail(ErrorKind::kInternal, "{} {} reads {} before it is made", op_name(node.op), node.name,
             graph.value(input).name);
      }
    }
    const auto types = infer_outputs(graph, node);
    check_internal(types.size() == node.outputs.size(), "node has the wrong number of outputs");
    for (size_t i = 0; i < types.size(); ++i) {
      const Value& output = graph.value(node.outputs[i]);
      if (output.dtype != types[i].dtype || output.shape != types[i].shape) {
        fail(ErrorKind::kInternal, "{} {}: output {} is declared {}{}, inferred {}{}", op_name(node.op), node.name,
             output.name, dtype_name(output.dtype), shape_text(output.shape), dtype_name(types[i].dtype),
             shape_text(types[i].shape));
      }
      check_internal(!defined[static_cast<size_t>(node.outputs[i])], "a value is made twice");
      defined[static_cast<size_t>(node.outputs[i])] = true;
    }
  }
  for (const ValueId output : graph.outputs()) {
    check_internal(defined.at(static_cast<size_t>(output)), "a graph output is never made");
  }
}

}  // namespace edgewise
