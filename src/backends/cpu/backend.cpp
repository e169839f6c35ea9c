#include "backends/cpu/backend.h"

#include <algorithm>
#include <chrono>

#include "backends/cpu/executable.h"
#include "base/error.h"

namespace edgewise::cpu {
namespace {

constexpr int kMaxRouteExperts = 1024;

std::optional<std::string> why_no_weights(const Graph& graph, const Node& node) {
  try {
    for (const PackedFormat& format : formats_of(graph, node)) {
      if (is_integer(format.encoding) && format.scale == ScaleKind::kNone) return "integer weights without a scale";
    }
  } catch (const Error& error) {
    return error.what();
  }
  return std::nullopt;
}

// A graph with one packed Linear whose weights are zeros.
Graph timing_graph(const Graph& graph, const Node& node, const std::string& kernel) {
  Graph small;
  const ValueId x = small.add_input("x", DType::kF32, {kTokens, node.integer("k")});
  std::vector<ValueId> inputs{x};
  for (size_t i = 1; i < node.inputs.size(); ++i) {
    if (node.inputs[i] == kNone) {
      inputs.push_back(kNone);
      continue;
    }
    const Value& value = graph.value(node.inputs[i]);
    inputs.push_back(small.add_constant(value.name, Tensor::zeros(value.dtype, value.shape)));
  }
  Attributes attributes = node.attributes;
  attributes["tactics"] = "1:" + kernel;
  small.add_node(Op::kLinear, node.name, inputs, attributes);
  return small;
}

}  // namespace

std::optional<std::string> CpuBackend::why_unsupported(const Graph& graph, const Node& node) const {
  switch (node.op) {
    case Op::kLinear:
    case Op::kMoe:
      return why_no_weights(graph, node);
    case Op::kRoute:
      if (graph.value(node.inputs.at(0)).shape.back() > kMaxRouteExperts) {
        return fmt::format("more than {} experts", kMaxRouteExperts);
      }
      return std::nullopt;
    default:
      return std::nullopt;
  }
}

void CpuBackend::pack(Graph& graph, NodeId node) const { pack_node(graph, node); }

std::vector<std::string> CpuBackend::kernels(const Graph& graph, const Node& node) const {
  if (node.op != Op::kLinear && node.op != Op::kMoe) return {};
  for (const PackedFormat& format : formats_of(graph, node)) {
    if (!is_integer(format.encoding)) return {"direct", "blocked"};
  }
  return {};
}

double CpuBackend::time_kernel(const Graph& graph, const Node& node, const std::string& kernel, int tokens) const {
  check_internal(node.op == Op::kLinear && node.has("packed"), "time_kernel: only packed Linear nodes");
  const Graph small = timing_graph(graph, node, kernel);
  LoadOptions options;
  options.max_tokens = tokens;
  options.max_rows = tokens;
  ThreadPool pool;
  BuildContext build;
  build.graph = &small;
  build.options = &options;
  build.isa = choose_isa();
  build.workers = pool.size();
  const auto op = make_linear_op(build, small.nodes()[0]);
  std::vector<std::vector<float>> buffers(small.values().size());
  std::vector<float*> values(buffers.size(), nullptr);
  for (size_t i = 0; i < buffers.size(); ++i) {
    const Value& value = small.values()[i];
    if (value.is_constant()) continue;
    buffers[i].assign(static_cast<size_t>(tokens * value.shape[1]), 1.0f);
    values[i] = buffers[i].data();
  }
  PageMemory workspace(op->workspace());
  StepContext context;
  context.tokens = tokens;
  context.rows = tokens;
  context.values = values.data();
  context.workspace = workspace.data();
  context.pool = &pool;
  std::vector<double> seconds;
  for (int i = 0; i < 6; ++i) {
    const auto start = std::chrono::steady_clock::now();
    pool.run([&](int worker) { op->run(context, worker, pool.size()); });
    const double taken = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (i > 0) seconds.push_back(taken);  // the first one warms up
  }
  std::nth_element(seconds.begin(), seconds.begin() + 2, seconds.end());
  return seconds[2];
}

std::unique_ptr<Executable> CpuBackend::load(const Graph& graph, const LoadOptions& options) const {
  if (options.kv_dtype != DType::kF32 && options.kv_dtype != DType::kF16 && options.kv_dtype != DType::kBF16 &&
      !kv_is_scaled(options.kv_dtype)) {
    unsupported("the cpu backend keeps its KV cache in f32, f16, bf16, f8e4m3 or i8, not {}",
                dtype_name(options.kv_dtype));
  }
  for (const Node& node : graph.nodes()) {
    if (const auto why = why_unsupported(graph, node)) unsupported("{} {}: {}", op_name(node.op), node.name, *why);
    const bool weights = node.op == Op::kLinear || node.op == Op::kMoe;
    if (weights && !node.has("packed")) {
      fail(ErrorKind::kInternal, "{} {}: weights are not packed for the cpu backend", op_name(node.op), node.name);
    }
  }
  return std::make_unique<CpuExecutable>(graph, options, choose_isa());
}

}  // namespace edgewise::cpu
