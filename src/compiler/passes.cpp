#include "compiler/passes.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"

namespace edgewise {

const std::vector<Pass>& passes() {
  static const std::vector<Pass> all = {
      {"select_logits_rows", "the head runs only on rows that need logits", select_logits_rows},
      {"fuse_bias", "what is added to a product's rows becomes its bias", fuse_bias},
      {"merge_linears", "q, k, v and gate, up become one product each", merge_linears},
      {"fuse_gated_activation", "activation and product of a gated MLP in one sweep", fuse_gated_activation},
      {"fuse_residual_norm", "residual sum and the norm behind it in one sweep", fuse_residual_norm},
  };
  return all;
}

std::vector<PassReport> run_passes(Graph& graph, const std::set<std::string>& disabled) {
  std::vector<std::string_view> names;
  for (const Pass& pass : passes()) names.push_back(pass.name);
  for (const std::string& name : disabled) {
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      usage_error("--disablePass {}: no such pass; there are {}", name, fmt::join(names, ", "));
    }
  }
  std::vector<PassReport> reports;
  for (const Pass& pass : passes()) {
    if (disabled.contains(std::string(pass.name))) continue;
    const auto start = std::chrono::steady_clock::now();
    const int changes = pass.run(graph);
    graph.compact();
    verify_graph(graph);
    reports.push_back(
        {pass.name, changes, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()});
  }
  return reports;
}

}  // namespace edgewise
