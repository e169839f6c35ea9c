// The CUDA backend: NVIDIA GPUs of compute capability 8.0 and newer.
#pragma once

#include "backends/backend.h"

namespace edgewise::cuda {

class CudaBackend final : public Backend {
 public:
  std::string_view name() const override { return "cuda"; }
  std::string_view layout() const override { return "cuda-t16"; }
  std::optional<std::string> why_unsupported(const Graph& graph, const Node& node) const override;
  void pack(Graph& graph, NodeId node) const override;
  std::vector<std::string> kernels(const Graph& graph, const Node& node) const override;
  double time_kernel(const Graph& graph, const Node& node, const std::string& kernel, int tokens) const override;
  size_t cache_room(const Graph& graph, const LoadOptions& options) const override;
  int prefill_chunk() const override { return 2048; }
  double read_bandwidth() const override;
  std::unique_ptr<Executable> load(const Graph& graph, const LoadOptions& options) const override;
};

}  // namespace edgewise::cuda
