#include "backends/memory_plan.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "backends/backend.h"
#include "backends/kv_scale.h"
#include "base/error.h"

namespace edgewise {

MemoryPlan plan_memory(std::span<const Lifetime> lifetimes, size_t alignment) {
  MemoryPlan plan;
  plan.offsets.assign(lifetimes.size(), 0);
  std::vector<size_t> order(lifetimes.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return lifetimes[a].bytes > lifetimes[b].bytes; });
  const auto round_up = [alignment](size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; };
  std::vector<size_t> placed;  // by ascending offset
  for (const size_t index : order) {
    const Lifetime& life = lifetimes[index];
    if (life.bytes == 0) continue;
    size_t offset = 0;
    for (const size_t other : placed) {
      if (lifetimes[other].last < life.first || life.last < lifetimes[other].first) continue;
      if (plan.offsets[other] >= offset + life.bytes) break;
      offset = std::max(offset, plan.offsets[other] + round_up(lifetimes[other].bytes));
    }
    plan.offsets[index] = offset;
    plan.total = std::max(plan.total, offset + round_up(life.bytes));
    placed.insert(std::upper_bound(placed.begin(), placed.end(), index,
                                   [&](size_t a, size_t b) { return plan.offsets[a] < plan.offsets[b]; }),
                  index);
  }
  return plan;
}

std::vector<Lifetime> value_lifetimes(const Graph& graph, std::span<const int> steps, int max_tokens, int max_rows,
                                      size_t element_bytes) {
  check_internal(steps.size() == graph.nodes().size(), "value_lifetimes: one step a node");
  std::vector<Lifetime> lifetimes(graph.values().size());
  for (size_t i = 0; i < graph.nodes().size(); ++i) {
    const Node& node = graph.nodes()[i];
    for (const ValueId id : node.outputs) {
      const Shape& shape = graph.value(id).shape;
      size_t count = 1;
      for (const int64_t dim : shape) {
        count *= static_cast<size_t>(dim == kTokens ? max_tokens : dim == kRows ? max_rows : dim);
      }
      lifetimes[static_cast<size_t>(id)] = {std::max<size_t>(count, 1) * element_bytes, steps[i], steps[i]};
    }
    for (const ValueId id : node.inputs) {
      if (id == kNone) continue;
      Lifetime& life = lifetimes[static_cast<size_t>(id)];
      life.last = std::max(life.last, steps[i]);
    }
  }
  const int end = steps.empty() ? 0 : steps.back();
  for (const ValueId id : graph.outputs()) lifetimes[static_cast<size_t>(id)].last = end;
  return lifetimes;
}

size_t kv_page_bytes(const Graph& graph, DType dtype) {
  std::set<int64_t> layers;  // several operators may share one
  double bytes = 0;
  for (const Node& node : graph.nodes()) {
    if (node.op != Op::kAttention || !layers.insert(node.integer("layer")).second) continue;
    const auto heads = static_cast<double>(node.integer("kv_heads") * kPageTokens);
    bytes += 2 * heads * kv_head_bytes(dtype, node.integer("head_dim"));
  }
  return static_cast<size_t>(bytes);
}

}  // namespace edgewise
