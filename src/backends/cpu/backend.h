// The CPU backend: x86-64 with AVX2 or AVX-512, arm64 with NEON.
#pragma once

#include "backends/backend.h"
#include "backends/cpu/layout.h"

namespace edgewise::cpu {

class CpuBackend final : public Backend {
 public:
  std::string_view name() const override { return "cpu"; }
  std::string_view layout() const override { return "cpu-p16"; }
  std::optional<std::string> why_unsupported(const Graph& graph, const Node& node) const override;
  void pack(Graph& graph, NodeId node) const override;
  std::vector<std::string> kernels(const Graph& graph, const Node& node) const override;
  double time_kernel(const Graph& graph, const Node& node, const std::string& kernel, int tokens) const override;
  std::unique_ptr<Executable> load(const Graph& graph, const LoadOptions& options) const override;
};

// The packed formats of a node's weights (kLinear, kMoe), as pack() makes or has made them.
std::vector<PackedFormat> formats_of(const Graph& graph, const Node& node);
// Replaces the node's weights by packed ones.
void pack_node(Graph& graph, NodeId node);

}  // namespace edgewise::cpu
