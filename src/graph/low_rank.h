// Low-rank adapters of a graph's Linears: y += scale * B (A x) (LoRA, arXiv:2106.09685).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace edgewise {

struct LowRank {
  Tensor a;  // [r, K], f32, f16 or bf16
  Tensor b;  // [n, r]
  float scale = 1;
};

// By module path, as the checkpoint calls its Linears.
using Adapter = std::map<std::string, LowRank>;

// A merged Linear keeps its parts' module paths in this attribute, separated by spaces.
inline constexpr const char* kModulesAttribute = "modules";

// What is added to one output of a Linear.
struct BoundLowRank {
  size_t output = 0;
  LowRank weights;
};

// What the adapter adds, by node; empty where nothing. A module that is several Linears here (a fused qkv_proj or
// gate_up_proj) gives each its rows of B. Throws Error(kUsage) naming the modules that the graph lacks, and
// Error(kBadFile) for matrices of another shape than the Linear's.
std::vector<std::vector<BoundLowRank>> bind_adapter(const Graph& graph, const Adapter& adapter);

}  // namespace edgewise
