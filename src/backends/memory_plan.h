// Places values in one arena so that those alive at the same time never overlap.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "graph/graph.h"

namespace edgewise {

// A value that takes `bytes` from step `first` to step `last`, both included.
struct Lifetime {
  size_t bytes = 0;
  int first = 0;
  int last = 0;
};

struct MemoryPlan {
  std::vector<size_t> offsets;
  size_t total = 0;
};

// Largest first, each at the lowest offset that is free for its whole life.
MemoryPlan plan_memory(std::span<const Lifetime> lifetimes, size_t alignment = 64);

// Lifetimes of a graph's activations, by value id; those of inputs and constants have no bytes. `steps`
// numbers the nodes, ascending; nodes of one step may run at the same time. Rows [tokens] and [rows] count at
// their largest.
std::vector<Lifetime> value_lifetimes(const Graph& graph, std::span<const int> steps, int max_tokens, int max_rows,
                                      size_t element_bytes);

// Bytes of one page of the KV cache: keys, values and their scales in all layers.
size_t kv_page_bytes(const Graph& graph, DType dtype);

}  // namespace edgewise
