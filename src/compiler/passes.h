// The passes of the compiler: each rewrites the graph into an equal one that runs faster.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"

namespace edgewise {

struct Pass {
  std::string_view name;
  std::string_view what;     // one line for --help and the build's report
  int (*run)(Graph& graph);  // returns how many places it changed
};

// In the order they run.
const std::vector<Pass>& passes();

struct PassReport {
  std::string_view name;
  int changes;
  double seconds;
};
// Verifies the graph after every pass. Throws Error(kUsage) when a disabled name is no pass.
std::vector<PassReport> run_passes(Graph& graph, const std::set<std::string>& disabled);

int select_logits_rows(Graph& graph);
int fuse_bias(Graph& graph);
int merge_linears(Graph& graph);
int fuse_gated_activation(Graph& graph);
int fuse_residual_norm(Graph& graph);

}  // namespace edgewise
