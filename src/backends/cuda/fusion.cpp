#include "backends/cuda/fusion.h"

#include <algorithm>

#include "backends/cuda/layout.h"

namespace edgewise::cuda {
namespace {

using Rest = Fusions::Rest;

class Finder {
 public:
  explicit Finder(const Graph& graph) : graph_(graph), uses_(graph.use_counts()), readers_(graph.values().size()) {
    const size_t count = graph.nodes().size();
    found_.rest.assign(count, Rest::kAll);
    found_.gates.assign(count, false);
    found_.linears.resize(count);
    found_.heads.resize(count);
    found_.in_attention.assign(count, false);
    for (size_t i = 0; i < count; ++i) {
      for (const ValueId id : graph.nodes()[i].inputs) {
        if (id != kNone) readers_[static_cast<size_t>(id)].push_back(static_cast<NodeId>(i));
      }
    }
  }

  Fusions find() {
    for (size_t i = 0; i < graph_.nodes().size(); ++i) {
      const Node& node = graph_.nodes()[i];
      const auto id = static_cast<NodeId>(i);
      if (node.op == Op::kAttention) found_.heads[i] = {head(node.inputs[0]), head(node.inputs[1])};
      if (can_decode(id)) {
        found_.linears[i] = LinearFusion{.x = node.inputs[0]};
        find_source(id);
        find_residual(id);
      }
    }
    return std::move(found_);
  }

 private:
  const Node& node(NodeId id) const { return graph_.nodes()[static_cast<size_t>(id)]; }
  NodeId producer(ValueId id) const { return graph_.value(id).producer; }
  int uses(ValueId id) const { return uses_[static_cast<size_t>(id)]; }
  int64_t columns(ValueId id) const { return graph_.value(id).shape.back(); }

  // Whether the kernel of few tokens takes a node: one launch for all its parts.
  bool can_decode(NodeId id) const {
    const Node& linear = node(id);
    if (linear.op != Op::kLinear || linear.outputs.size() > static_cast<size_t>(kMostParts)) return false;
    const auto formats = formats_of(graph_, linear);
    return std::ranges::all_of(formats, [&](const WeightFormat& f) {
      return f.encoding != Encoding::kF32 && !f.token_scales && f.k % 4 == 0 && f.text() == formats[0].text() &&
             f.block == formats[0].block;
    });
  }

  void find_source(NodeId id) {
    LinearFusion& fusion = *found_.linears[static_cast<size_t>(id)];
    const ValueId x = node(id).inputs[0];
    const NodeId maker = producer(x);
    if (maker < 0) return;
    const Node& before = node(maker);
    Rest& rest = found_.rest[static_cast<size_t>(maker)];
    if (before.op == Op::kSwiGlu || before.op == Op::kGeGlu) {
      if (uses(x) != 1) return;
      const bool tanh = before.text("approximate", "none") == "tanh";
      fusion.source = before.op == Op::kSwiGlu ? Source::kSwiGlu : tanh ? Source::kGeGluTanh : Source::kGeGlu;
      fusion.x = before.inputs[0];
      fusion.up = before.inputs[1];
      rest = Rest::kNothing;
      found_.gates[static_cast<size_t>(maker)] = true;
      return;
    }
    const bool norm = before.op == Op::kRmsNorm && columns(before.inputs[1]) == columns(x);
    const bool of_sum = before.op == Op::kAddRmsNorm && x == before.outputs[1];
    const auto& readers = readers_[static_cast<size_t>(x)];
    const bool all_decode = static_cast<int>(readers.size()) == uses(x) &&
                            std::ranges::all_of(readers, [&](NodeId reader) { return can_decode(reader); });
    if ((!norm && !of_sum) || !all_decode) return;
    fusion.source = Source::kNormed;
    fusion.norm = maker;
    fusion.x = norm ? before.inputs[0] : before.outputs[0];
    if (norm)
      rest = Rest::kNothing;
    else if (rest == Rest::kAll)
      rest = Rest::kSum;
    else if (rest == Rest::kNorm)
      rest = Rest::kNothing;
  }

  // y + r, where r is there before y.
  void find_residual(NodeId id) {
    if (node(id).outputs.size() != 1 || uses(node(id).outputs[0]) != 1) return;
    const ValueId y = node(id).outputs[0];
    if (readers_[static_cast<size_t>(y)].empty()) return;
    const NodeId reader = readers_[static_cast<size_t>(y)][0];
    const Node& sum = node(reader);
    if (sum.op != Op::kAdd && sum.op != Op::kAddRmsNorm) return;
    const ValueId other = sum.inputs[0] == y ? sum.inputs[1] : sum.inputs[0];
    const Value& r = graph_.value(other);
    if (r.is_constant() || r.shape != graph_.value(y).shape || r.producer >= id) return;
    LinearFusion& fusion = *found_.linears[static_cast<size_t>(id)];
    fusion.residual = other;
    fusion.out = sum.outputs[0];
    found_.rest[static_cast<size_t>(reader)] = sum.op == Op::kAdd ? Rest::kNothing : Rest::kNorm;
  }

  // What stands between attention and a Linear, and nothing else reads.
  HeadFusion head(ValueId id) {
    HeadFusion result{.x = id};
    const NodeId turn = producer(result.x);
    if (turn >= 0 && node(turn).op == Op::kRotary && uses(result.x) == 1) {
      result.rotary = turn;
      result.x = node(turn).inputs[0];
      found_.in_attention[static_cast<size_t>(turn)] = true;
    }
    const NodeId norm = producer(result.x);
    const bool of_heads = norm >= 0 && node(norm).op == Op::kRmsNorm && uses(result.x) == 1 &&
                          columns(node(norm).inputs[1]) < columns(result.x);
    if (of_heads) {
      result.norm = norm;
      result.x = node(norm).inputs[0];
      found_.in_attention[static_cast<size_t>(norm)] = true;
    }
    return result;
  }

  const Graph& graph_;
  std::vector<int> uses_;
  std::vector<std::vector<NodeId>> readers_;  // by value
  Fusions found_;
};

}  // namespace

void Fusions::extend(const Graph& graph, std::vector<Lifetime>& lives) const {
  const auto read_at = [&](ValueId id, size_t node) {
    if (id == kNone || graph.value(id).is_constant()) return;
    Lifetime& life = lives[static_cast<size_t>(id)];
    life.last = std::max(life.last, static_cast<int>(node));
  };
  for (size_t i = 0; i < linears.size(); ++i) {
    if (linears[i]) {
      read_at(linears[i]->x, i);
      read_at(linears[i]->up, i);
      if (linears[i]->out != kNone) {
        Lifetime& life = lives[static_cast<size_t>(linears[i]->out)];
        life.first = std::min(life.first, static_cast<int>(i));
      }
    }
    if (!heads[i]) continue;
    for (const HeadFusion& head : {heads[i]->first, heads[i]->second}) {
      read_at(head.x, i);
      if (head.rotary < 0) continue;
      for (const ValueId id : graph.nodes()[static_cast<size_t>(head.rotary)].inputs) read_at(id, i);
    }
  }
}

Fusions find_fusions(const Graph& graph) { return Finder(graph).find(); }

}  // namespace edgewise::cuda
