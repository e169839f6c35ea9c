#include "compiler/draft_head.h"

#include <algorithm>

#include "base/error.h"

namespace edgewise {
namespace {

// Copies what `values` are made of into another graph, where inputs are the values of the same name or become inputs.
std::vector<ValueId> transplant(const Graph& from, const std::vector<ValueId>& values, Graph& to) {
  std::vector<bool> needed(from.values().size(), false);
  for (const ValueId id : values) needed[static_cast<size_t>(id)] = true;
  const auto is_needed = [&](const Node& node) {
    return std::ranges::any_of(node.outputs, [&](ValueId id) { return needed[static_cast<size_t>(id)]; });
  };
  for (auto node = from.nodes().rbegin(); node != from.nodes().rend(); ++node) {
    if (!is_needed(*node)) continue;
    for (const ValueId id : node->inputs) {
      if (id != kNone) needed[static_cast<size_t>(id)] = true;
    }
  }
  std::vector<ValueId> copies(needed.size(), kNone);
  for (size_t i = 0; i < copies.size(); ++i) {
    const Value& value = from.values()[i];
    if (!needed[i] || value.producer >= 0) continue;
    const ValueId same = to.find_value(value.name);
    if (value.is_constant()) {
      copies[i] = to.add_constant(value.name, value.dtype, value.shape, value.constant);
    } else {
      copies[i] = same != kNone ? same : to.add_input(value.name, value.dtype, value.shape);
    }
  }
  const auto copy_of = [&](ValueId id) { return id == kNone ? kNone : copies[static_cast<size_t>(id)]; };
  for (const Node& node : from.nodes()) {
    if (!is_needed(node)) continue;
    std::vector<ValueId> inputs;
    for (const ValueId id : node.inputs) inputs.push_back(copy_of(id));
    const auto outputs = to.add_node(node.op, node.name, std::move(inputs), node.attributes);
    for (size_t i = 0; i < outputs.size(); ++i) copies[static_cast<size_t>(node.outputs[i])] = outputs[i];
  }
  std::vector<ValueId> result;
  for (const ValueId id : values) result.push_back(copy_of(id));
  return result;
}

// Behind the attention go only the rows whose guesses are wanted: the others are there for their keys and values.
void select_rows_behind_attention(Graph& head) {
  std::vector<ValueId> selected(head.values().size(), kNone);  // by value: the same on those rows
  const auto select = [&](ValueId id) {
    ValueId& known = selected[static_cast<size_t>(id)];
    if (known == kNone) known = head.add(Op::kSelectRows, head.value(id).name + ".rows", {id});
    return known;
  };
  std::vector<bool> behind(head.values().size(), false);
  for (size_t i = 0, count = head.nodes().size(); i < count; ++i) {
    const Op op = head.nodes()[i].op;
    const std::vector<ValueId> inputs = head.nodes()[i].inputs;
    const auto is_behind = [&](ValueId id) { return id != kNone && behind[static_cast<size_t>(id)]; };
    if (op != Op::kAttention && !std::ranges::any_of(inputs, is_behind)) continue;
    for (const ValueId id : head.nodes()[i].outputs) behind[static_cast<size_t>(id)] = true;
    if (op == Op::kAttention) continue;
    for (size_t k = 0; k < inputs.size(); ++k) {
      const bool attended = is_behind(inputs[k]) &&
                            head.nodes()[static_cast<size_t>(head.value(inputs[k]).producer)].op == Op::kAttention;
      const bool row = inputs[k] != kNone && !head.value(inputs[k]).is_constant() && !is_behind(inputs[k]);
      if (attended || row) head.nodes()[i].inputs[k] = select(inputs[k]);
    }
    for (const ValueId id : head.nodes()[i].outputs) head.value(id).shape[0] = kRows;
  }
}

}  // namespace

void join_draft_head(Graph& base, Graph& head, const std::string& source) {
  if (head.outputs().size() != 3 || head.find_value(kHiddenInput) == kNone) {
    bad_file("{}: expected the input {} and the outputs logits, hidden and features of a draft head", source,
             kHiddenInput);
  }
  if (base.outputs().size() != 4) {
    bad_file("{}: the model beside it puts out {} hidden states, its head reads three; export them together", source,
             base.outputs().size() - 1);
  }
  const size_t inputs = base.inputs().size();
  const ValueId features = transplant(head, {head.outputs()[2]}, base)[0];
  if (base.inputs().size() != inputs) {
    bad_file("{}: its features need {}, which the model beside it does not put out", source,
             base.value(base.inputs().back()).name);
  }
  base.outputs() = {base.outputs()[0], features};
  Graph guesses;
  guesses.name = head.name;
  guesses.outputs() = transplant(head, {head.outputs()[0], head.outputs()[1]}, guesses);
  head = std::move(guesses);
  select_rows_behind_attention(head);
  for (Graph* graph : {&base, &head}) {
    graph->compact();
    verify_graph(*graph);
  }
  const int64_t columns = base.value(features).shape.at(1);
  for (const ValueId id : {head.find_value(kHiddenInput), head.outputs()[1]}) {
    if (id != kNone && head.value(id).shape.at(1) == columns) continue;
    bad_file("{}: its features have {} columns and its hidden states others", source, columns);
  }
}

void put_out_final_hidden(Graph& base) {
  ValueId at = base.outputs().at(0);
  while (base.value(at).producer >= 0) {
    const Node& node = base.nodes()[static_cast<size_t>(base.value(at).producer)];
    at = node.inputs[0];
    if (node.op == Op::kLinear) break;
  }
  if (base.value(at).shape == Shape{kRows, base.value(at).shape.back()})
    base.outputs().insert(base.outputs().begin() + 1, at);
}

}  // namespace edgewise
