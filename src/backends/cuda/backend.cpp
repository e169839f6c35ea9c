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

void require_device() {
  if (const char* why = why_no_device())
    fail(ErrorKind::kIo, "--device cuda needs an NVIDIA GPU: {}; build for --device cpu here", why);
  // A fault stays with the process (CUDA Runtime API, cudaErrorIllegalAddress), whatever is reset.
  if (const cudaError_t fault = cudaDeviceSynchronize(); fault != cudaSuccess)
    fail(ErrorKind::kIo, "the GPU has failed in this process: {} ({}); start the program anew",
         cudaGetErrorString(fault), cudaGetErrorName(fault));
}

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

size_t CudaBackend::cache_room(const Graph& graph, const LoadOptions& options) const {
  require_device();
  size_t free = 0;
  size_t total = 0;
  check_cuda(cudaMemGetInfo(&free, &total), "be asked for its free memory");
  // Scratch memory, graphs and code, a draft head, and what others on the GPU take meanwhile.
  const size_t margin = std::min(size_t{3} << 30, free / 8);
  const size_t needed = bytes_beside_cache(graph, options) + margin;
  return free - std::min(free, needed);
}

double CudaBackend::read_bandwidth() const {
  constexpr int kRuns = 5;
  size_t free = 0;
  size_t total = 0;
  check_cuda(cudaMemGetInfo(&free, &total), "be asked for its free memory");
  const size_t bytes = std::min(size_t{8} << 30, free / 2);  // far beyond its caches
  const DeviceMemory memory(bytes, "a measurement of bandwidth");
  const Stream stream;
  const Event start;
  const Event stop;
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    check_cuda(cudaEventRecord(start.get(), stream.get()), "measure");
    read_all(stream.get(), memory.data(), bytes);
    check_cuda(cudaEventRecord(stop.get(), stream.get()), "measure");
    check_cuda(cudaStreamSynchronize(stream.get()), "measure");
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, start.get(), stop.get()), "measure");
    best = std::max(best, static_cast<double>(bytes) / (milliseconds / 1e3));
  }
  return best;
}

std::unique_ptr<Executable> CudaBackend::load(const Graph& graph, const LoadOptions& options) const {
  require_device();
  for (const Node& node : graph.nodes()) {
    if (const auto why = why_unsupported(graph, node)) unsupported("{} {}: {}", op_name(node.op), node.name, *why);
  }
  auto executable = std::make_unique<CudaExecutable>(graph, options);
  executable->choose_program();
  return executable;
}

}  // namespace edgewise::cuda
