#include "graph/low_rank.h"

#include <algorithm>
#include <sstream>

#include "base/error.h"

namespace edgewise {
namespace {

// One output of one Linear.
struct Place {
  size_t node;
  size_t output;
};
using Places = std::map<std::string, Place>;

Places places_of(const Graph& graph) {
  Places places;
  for (size_t i = 0; i < graph.nodes().size(); ++i) {
    const Node& node = graph.nodes()[i];
    if (node.op != Op::kLinear) continue;
    std::istringstream modules(node.text(kModulesAttribute, node.name));
    std::string module;
    for (size_t output = 0; output < node.outputs.size() && modules >> module; ++output) places[module] = {i, output};
  }
  return places;
}

// The module itself, or the parts that the exporter cuts a fused one into, in the order of its rows.
std::vector<Place> find_module(const Places& places, const std::string& module) {
  if (const auto found = places.find(module); found != places.end()) return {found->second};
  for (const std::vector<std::string>& parts : {std::vector<std::string>{"q", "k", "v"}, {"gate", "up"}}) {
    std::vector<Place> result;
    for (const std::string& part : parts) {
      if (const auto found = places.find(module + "." + part); found != places.end()) result.push_back(found->second);
    }
    if (result.size() == parts.size()) return result;
  }
  return {};
}

// A for a Linear that reads its columns in another order (GPTQ's act-order).
Tensor gather_columns(const Graph& graph, const Node& linear, const Tensor& a) {
  const NodeId producer = graph.value(linear.inputs[0]).producer;
  if (producer < 0 || graph.nodes()[static_cast<size_t>(producer)].op != Op::kGatherColumns) return a;
  const auto index = graph.constant(graph.nodes()[static_cast<size_t>(producer)].inputs[1]).to_int64();
  auto sorted = index;
  std::sort(sorted.begin(), sorted.end());
  for (size_t k = 0; k < sorted.size(); ++k) {
    if (sorted[k] != static_cast<int64_t>(k)) unsupported("{}: adapters need all columns of its input", linear.name);
  }
  const auto from = a.to_floats();
  std::vector<float> to(from.size());
  for (size_t i = 0; i < to.size(); ++i)
    to[i] = from[i - i % index.size() + static_cast<size_t>(index[i % index.size()])];
  return Tensor::from_floats(a.dtype(), a.shape(), to);
}

void check_shapes(const std::string& module, const LowRank& weights, int64_t n, int64_t k) {
  const int64_t rank = weights.a.rank() == 2 ? weights.a.dim(0) : 0;
  if (rank > 0 && weights.a.shape() == Shape{rank, k} && weights.b.shape() == Shape{n, rank}) return;
  bad_file("adapter: {} has A {} and B {}; the model's is [{}, {}], so [r, {}] and [{}, r] were expected", module,
           shape_text(weights.a.shape()), shape_text(weights.b.shape()), n, k, k, n);
}

}  // namespace

std::vector<std::vector<BoundLowRank>> bind_adapter(const Graph& graph, const Adapter& adapter) {
  const Places places = places_of(graph);
  std::vector<std::vector<BoundLowRank>> result(graph.nodes().size());
  std::vector<std::string> unknown;
  for (const auto& [module, weights] : adapter) {
    const auto found = find_module(places, module);
    if (found.empty()) {
      unknown.push_back(module);
      continue;
    }
    const auto columns = [&](const Place& place) {
      return graph.value(graph.nodes()[place.node].outputs[place.output]).shape.at(1);
    };
    int64_t n = 0;
    for (const Place& place : found) n += columns(place);
    const Node& first = graph.nodes()[found[0].node];
    check_shapes(module, weights, n, graph.value(first.inputs[0]).shape.at(1));
    const Tensor a = gather_columns(graph, first, weights.a);
    int64_t row = 0;
    for (const Place& place : found) {
      const int64_t end = row + columns(place);
      result[place.node].push_back({place.output, {a, weights.b.rows(row, end), weights.scale}});
      row = end;
    }
  }
  if (!unknown.empty()) {
    const size_t shown = std::min<size_t>(unknown.size(), 4);
    usage_error("adapter: the model has no Linear called {}{}",
                fmt::join(unknown.begin(), unknown.begin() + shown, ", "),
                shown < unknown.size() ? fmt::format(" and {} more", unknown.size() - shown) : "");
  }
  return result;
}

}  // namespace edgewise
