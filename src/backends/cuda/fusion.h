// Which operators of a graph run as part of others: heads' norms, rotations and the cache's growth with attention, and
// in steps of up to 64 tokens norms and gates with the Linear behind them, sums with the Linear in front.
#pragma once

#include <optional>
#include <vector>

#include "backends/cuda/kernels.h"
#include "backends/memory_plan.h"
#include "graph/graph.h"

namespace edgewise::cuda {

// How a Linear runs in steps of up to 64 tokens.
struct LinearFusion {
  Source source = Source::kPlain;
  ValueId x = kNone;
  ValueId up = kNone;  // of gated sources
  NodeId norm = -1;    // whose weights and epsilon a normed source has
  ValueId residual = kNone;
  ValueId out = kNone;  // of a sum; else the Linear's own outputs
};

// What one of attention's inputs goes through on its way.
struct HeadFusion {
  ValueId x = kNone;
  NodeId norm = -1;    // of each head, or none
  NodeId rotary = -1;  // or none
};

struct Fusions {
  // What is left of a node in such steps.
  enum class Rest : uint8_t { kAll, kNothing, kSum, kNorm };

  std::vector<Rest> rest;
  std::vector<bool> gates;  // nodes that run with the Linear behind them in steps of more than kMostBatchTokens too
  std::vector<std::optional<LinearFusion>> linears;                     // by node
  std::vector<std::optional<std::pair<HeadFusion, HeadFusion>>> heads;  // of attention's q and k, by node
  std::vector<bool> in_attention;                                       // nodes that run with attention, in every step

  // Keeps what fused operators read and write alive long enough; `lives` by value, with nodes as steps.
  void extend(const Graph& graph, std::vector<Lifetime>& lives) const;
};

Fusions find_fusions(const Graph& graph);

}  // namespace edgewise::cuda
