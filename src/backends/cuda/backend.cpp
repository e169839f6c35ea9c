#include "backends/cuda/backend.h"

#include <algorithm>

#include "backends/cuda/device.h"
#include "backends/cuda/executable.h"
#include "backends/cuda/layout.h"
#include "base/error.h"

namespace edgewise::cuda {
namespace {

constexpr int kMostHeadDim = 256;
constexpr int kMostGroup = 16;  // query heads a key head

[[maybe_unused]] const bool kRegistered = [] {
  register_backend(std::make_unique<CudaBackend>(), 5);
  return true;
}();

}  // namespace

std::optional<std::string> CudaBackend::why_unsupported(const Graph& graph, const Node& node) const {
  switch (node.op) {
    case Op::kLinear:
    case Op::kMoe:
      try {
        formats_of(graph, node);
      } catch (const Error& error) {
        return error.what();
      }
      return std::nullopt;
    case Op::kAttention:
      if (node.integer("head_dim") > kMostHeadDim) return fmt::format("heads of more than {} columns", kMostHeadDim);
      if (node.integer("q_heads") > kMostGroup * node.integer("kv_heads"))
        return fmt::format("more than {} query heads a key head", kMostGroup);
      return std::nullopt;
    default:
      return std::nullopt;
  }
}

void CudaBackend::pack(Graph& graph, NodeId node) const { pack_node(graph, node); }

std::vector<std::string> CudaBackend::kernels(const Graph&, const Node&) const { return {}; }

double CudaBackend::time_kernel(const Graph&, const Node& node, const std::string& kernel, int) const {
  fail(ErrorKind::kInternal, "{}: no kernel {} to time", node.name, kernel);
}

double CudaBackend::read_bandwidth() const {
  constexpr size_t kBytes = size_t{2} << 30;
  constexpr int kRuns = 5;
  const DeviceMemory memory(kBytes, "a measurement of bandwidth");
  const Stream stream;
  const Event start;
  const Event stop;
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    check_cuda(cudaEventRecord(start.get(), stream.get()), "measure");
    read_all(stream.get(), memory.data(), kBytes);
    check_cuda(cudaEventRecord(stop.get(), stream.get()), "measure");
    check_cuda(cudaStreamSynchronize(stream.get()), "measure");
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, start.get(), stop.get()), "measure");
    best = std::max(best, static_cast<double>(kBytes) / (milliseconds / 1e3));
  }
  return best;
}

std::unique_ptr<Executable> CudaBackend::load(const Graph& graph, const LoadOptions& options) const {
  if (const char* why = why_no_device())
    fail(ErrorKind::kIo, "--device cuda needs an NVIDIA GPU: {}; build for --device cpu here", why);
  for (const Node& node : graph.nodes()) {
    if (const auto why = why_unsupported(graph, node)) unsupported("{} {}: {}", op_name(node.op), node.name, *why);
  }
  return std::make_unique<CudaExecutable>(graph, options);
}

}  // namespace edgewise::cuda
