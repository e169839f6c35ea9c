#include "backends/cuda/executable.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "backends/kv_scale.h"
#include "backends/memory_plan.h"
#include "base/error.h"

namespace edgewise::cuda {
namespace {

// Steps of more tokens than this are not captured: their launches take less time than their kernels.
constexpr int kMostCapturedTokens = 64;

KvType kv_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return KvType::kF32;
    case DType::kF16:
      return KvType::kF16;
    case DType::kI8:
      return KvType::kInt8;
    case DType::kF8E4M3:
      return KvType::kF8;
    default:
      return KvType::kBF16;
  }
}

// States of unfinished softmaxes: 32 for each tile of a few sequences' few rows. More sequences share ranges out less.
int slots_for(const LoadOptions& options) {
  const int pages = std::min(options.kv_pages, 32);
  return std::min(pages * std::min(options.max_sequences, 32) * 4, 4096);
}

}  // namespace

std::unique_ptr<CudaOp> make_op(BuildContext& context, NodeId id) {
  const Node& node = context.graph().nodes()[static_cast<size_t>(id)];
  switch (node.op) {
    case Op::kLinear:
      return make_linear_op(context, id);
    case Op::kAttention:
      return make_attention_op(context, id);
    case Op::kMoe:
      return make_moe_op(context, node);
    default:
      return make_row_op(context, node);
  }
}

CudaExecutable::CudaExecutable(const Graph& graph, const LoadOptions& options)
    : graph_(graph),
      options_(options),
      fusions_(find_fusions(graph)),
      partial_slots_(slots_for(options)),
      values_(graph.values().size(), nullptr),
      adapters_(graph, options),
      results_(graph, options) {
  hidden_ = graph.find_value(kHiddenInput);
  if (hidden_ != kNone) hidden_columns_ = graph.value(hidden_).shape.at(1);
  size_t workspace = 0;
  for (size_t i = 0; i < graph.nodes().size(); ++i) {
    const Node& node = graph.nodes()[i];
    auto op = make_op(*this, static_cast<NodeId>(i));
    op->of_rows = !node.outputs.empty() && graph.value(node.outputs[0]).shape[0] == kRows;
    workspace = std::max(workspace, op->workspace());
    ops_.push_back(std::move(op));
  }
  workspace_ = DeviceMemory(workspace, "scratch memory");
  tables_ = std::make_unique<StepTables>(options, groups_, partial_slots_);
  place_values();
  constexpr size_t kMostCopies = 4096;
  copies_host_ = PinnedMemory(kMostCopies * sizeof(DeviceSlotCopy), "pinned memory for copies");
  copies_ = DeviceMemory(copies_host_.size(), "a list of copies");
  profile_.assign(graph.nodes().size(), 0.0);
}

void CudaExecutable::place_values() {
  std::vector<int> numbers(ops_.size());
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<int>(i);
  auto lives = value_lifetimes(graph_, numbers, options_.max_tokens, options_.max_rows, sizeof(float));
  fusions_.extend(graph_, lives);
  const MemoryPlan plan = plan_memory(lives, 256);
  const auto hidden_bytes = static_cast<size_t>(options_.max_tokens * hidden_columns_) * sizeof(float);
  arena_ = DeviceMemory(plan.total + hidden_bytes, "activations");
  for (size_t i = 0; i < lives.size(); ++i) {
    if (lives[i].bytes > 0) values_[i] = arena_.as<float>(plan.offsets[i]);
  }
  if (hidden_ != kNone) values_[static_cast<size_t>(hidden_)] = arena_.as<float>(plan.total);
  hidden_staging_ = PinnedMemory(hidden_bytes, "pinned memory for activations");
}

KvLayer CudaExecutable::kv_layer(const Node& node) {
  Layer& layer = layers_[node.integer("layer")];
  if (layer.memory.size() > 0) return layer.kv;
  layer.kv.type = kv_type(options_.kv_dtype);
  layer.kv.kv_heads = static_cast<int>(node.integer("kv_heads"));
  layer.kv.head_dim = static_cast<int>(node.integer("head_dim"));
  const auto pages = static_cast<size_t>(options_.kv_pages);
  const auto heads = static_cast<size_t>(layer.kv.kv_heads * kPageTokens);
  const size_t part = heads * byte_size(options_.kv_dtype, static_cast<size_t>(layer.kv.head_dim));
  const size_t scales = kv_is_scaled(options_.kv_dtype) ? heads * sizeof(float) : 0;
  layer.part_bytes = {part, part, scales, scales};
  layer.memory = DeviceMemory(2 * (part + scales) * pages, "the KV cache's pages");
  check_cuda(cudaMemset(layer.memory.data(), 0, layer.memory.size()), "clear the KV cache");
  layer.kv.keys = layer.memory.data();
  layer.kv.values = layer.memory.data() + part * pages;
  if (scales > 0) {
    layer.kv.key_scales = layer.memory.as<float>(2 * part * pages);
    layer.kv.value_scales = layer.memory.as<float>((2 * part + scales) * pages);
  }
  return layer.kv;
}

int CudaExecutable::tiles_of(int group) {
  const auto found = std::ranges::find(groups_, group);
  if (found != groups_.end()) return static_cast<int>(found - groups_.begin());
  groups_.push_back(group);
  return static_cast<int>(groups_.size() - 1);
}

// All layers share them: one runs at a time.
int32_t* CudaExecutable::arrival_counters(int kv_heads) {
  if (counters_.size() == 0) {
    for (const Node& node : graph_.nodes()) {
      if (node.op == Op::kAttention) kv_heads = std::max(kv_heads, static_cast<int>(node.integer("kv_heads")));
    }
    counters_ = DeviceMemory(static_cast<size_t>(partial_slots_ * kv_heads) * sizeof(int32_t), "counters");
    check_cuda(cudaMemset(counters_.data(), 0, counters_.size()), "clear memory");
  }
  return counters_.as<int32_t>();
}

// Nodes behind the last one that a wanted output needs are left out: they stand in topological order.
size_t CudaExecutable::steps_for(StepOutputs outputs) const noexcept {
  size_t end = 0;
  for (size_t i = 0; i < std::min(outputs.size(), graph_.outputs().size()); ++i) {
    const NodeId maker = graph_.value(graph_.outputs()[i]).producer;
    if (!outputs[i].empty()) end = std::max(end, static_cast<size_t>(maker + 1));
  }
  return end == 0 ? ops_.size() : end;
}

StepOutcome CudaExecutable::run(const StepInput& input, StepOutputs outputs, std::span<int32_t> best) noexcept {
  StepContext context;
  context.tokens = static_cast<int>(input.count(hidden_columns_));
  context.rows = static_cast<int>(input.logits_rows.size());
  if (context.tokens > options_.max_tokens || context.rows > options_.max_rows) return StepOutcome::kTooLarge;
  if (static_cast<int>(input.sequences.size()) > options_.max_sequences) return StepOutcome::kTooLarge;
  if (context.tokens == 0) return StepOutcome::kDone;
  context.stream = stream_.get();
  context.values = values_.data();
  context.workspace = workspace_.data();
  if (!tables_->fill(input) || !adapters_.begin_step(input, stream_.get())) return StepOutcome::kDeviceFault;
  tables_->describe(context);
  results_.begin(best);
  if (hidden_ != kNone) {
    std::ranges::copy(input.hidden, hidden_staging_.as<float>());
    cudaMemcpyAsync(values_[static_cast<size_t>(hidden_)], hidden_staging_.data(), input.hidden.size_bytes(),
                    cudaMemcpyHostToDevice, stream_.get());
  }
  const size_t end = steps_for(outputs);
  const bool watched = profiling_ || observer_;
  const StepOutcome outcome = watched                                 ? run_nodes(context, end)
                              : context.tokens <= kMostCapturedTokens ? replay(context, end)
                                                                      : (launch_step(context, end), StepOutcome::kDone);
  if (outcome != StepOutcome::kDone) return outcome;
  return results_.read(context, outputs, best);
}

void CudaExecutable::launch_step(const StepContext& context, size_t end) const noexcept {
  tables_->fetch(context.stream);
  launch_nodes(context, end);
  if (results_.picks()) results_.launch(context);
}

void CudaExecutable::launch_nodes(const StepContext& context, size_t end) const noexcept {
  // Adapters change what Linears give, so nothing may have been added to that yet.
  const bool few = std::max(context.tokens, context.rows) <= kMostDecodeTokens && !adapters_.any();
  for (size_t i = 0; i < end; ++i) {
    if (fusions_.in_attention[i]) continue;
    const Fusions::Rest rest = few ? fusions_.rest[i] : Fusions::Rest::kAll;
    if (rest == Fusions::Rest::kNothing) continue;
    const bool is_linear = graph_.nodes()[i].op == Op::kLinear;
    if (rest != Fusions::Rest::kAll)
      ops_[i]->launch_rest(context, rest);
    else if (few || !is_linear)
      ops_[i]->launch_fused(context);
    else
      ops_[i]->launch(context);
    if (is_linear && adapters_.any()) adapters_.launch(i, context, ops_[i]->of_rows);
  }
}

StepOutcome CudaExecutable::replay(const StepContext& context, size_t end) noexcept {
  const GraphKey key{context.tokens, context.rows, tables_->tile_bucket(), end, adapters_.any(), results_.picks()};
  auto found = captured_.find(key);
  if (found == captured_.end()) {
    StepGraph captured = capture(context, end);
    if (captured == nullptr) return StepOutcome::kDeviceFault;
    try {
      found = captured_.emplace(key, std::move(captured)).first;
    } catch (const std::bad_alloc&) {
      return StepOutcome::kOutOfMemory;
    }
  }
  return cudaGraphLaunch(found->second.get(), stream_.get()) == cudaSuccess ? StepOutcome::kDone
                                                                            : StepOutcome::kDeviceFault;
}

StepGraph CudaExecutable::capture(const StepContext& context, size_t end) const noexcept {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t ready = nullptr;
  if (cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal) != cudaSuccess) return nullptr;
  launch_step(context, end);
  const bool captured = cudaStreamEndCapture(stream_.get(), &graph) == cudaSuccess &&
                        cudaGraphInstantiate(&ready, graph, 0) == cudaSuccess;
  if (graph != nullptr) cudaGraphDestroy(graph);
  return StepGraph(captured ? ready : nullptr);
}

// One node at a time, for those who want to know what each does.
StepOutcome CudaExecutable::run_nodes(const StepContext& context, size_t end) noexcept {
  try {
    Event start;
    Event stop;
    tables_->fetch(context.stream);
    for (size_t i = 0; i < end; ++i) {
      cudaEventRecord(start.get(), stream_.get());
      ops_[i]->launch(context);
      if (adapters_.any() && graph_.nodes()[i].op == Op::kLinear) adapters_.launch(i, context, ops_[i]->of_rows);
      cudaEventRecord(stop.get(), stream_.get());
      check_cuda(cudaStreamSynchronize(stream_.get()), graph_.nodes()[i].name.c_str());
      check_cuda(cudaGetLastError(), graph_.nodes()[i].name.c_str());
      float milliseconds = 0;
      cudaEventElapsedTime(&milliseconds, start.get(), stop.get());
      profile_[i] += milliseconds / 1e3;
      if (observer_) report(i, context);
    }
    if (results_.picks()) results_.launch(context);
  } catch (const std::exception&) {
    return StepOutcome::kDeviceFault;
  }
  return StepOutcome::kDone;
}

void CudaExecutable::report(size_t index, const StepContext& context) {
  const Node& node = graph_.nodes()[index];
  std::vector<Tensor> outputs;
  for (const ValueId id : node.outputs) {
    const Shape& shape = graph_.value(id).shape;
    Tensor tensor = Tensor::zeros(DType::kF32, {context.count(shape[0] == kRows), shape.size() > 1 ? shape[1] : 1});
    check_cuda(cudaMemcpy(tensor.mutable_bytes().data(), values_[static_cast<size_t>(id)], tensor.bytes().size(),
                          cudaMemcpyDeviceToHost),
               "copy activations");
    outputs.push_back(std::move(tensor));
  }
  observer_(node, outputs);
}

void CudaExecutable::copy_slots(std::span<const SlotCopy> copies) noexcept {
  const size_t most = copies_host_.size() / sizeof(DeviceSlotCopy);
  for (size_t first = 0; first < copies.size(); first += most) {
    const auto some = copies.subspan(first, std::min(most, copies.size() - first));
    auto* to = copies_host_.as<DeviceSlotCopy>();
    for (size_t i = 0; i < some.size(); ++i) {
      to[i].from = some[i].from_page * kPageTokens + some[i].from_slot;
      to[i].to = some[i].to_page * kPageTokens + some[i].to_slot;
    }
    cudaMemcpyAsync(copies_.data(), to, some.size() * sizeof(DeviceSlotCopy), cudaMemcpyHostToDevice, stream_.get());
    for (const auto& [number, layer] : layers_)
      copy_kv_slots(stream_.get(), layer.kv, copies_.as<const DeviceSlotCopy>(), static_cast<int>(some.size()));
    cudaStreamSynchronize(stream_.get());  // the list is used again
  }
}

MemoryUse CudaExecutable::memory() const {
  MemoryUse use;
  for (const auto& op : ops_) use.weights += op->weight_bytes();
  use.weights += adapters_.bytes();
  for (const auto& [number, layer] : layers_) use.kv_cache += layer.memory.size();
  use.activations = arena_.size();
  use.workspace = workspace_.size() + tables_->bytes() + results_.bytes();
  return use;
}

// Its keys, values and their scales in every layer, in order.
template <typename Visit>
void CudaExecutable::visit_page(int32_t page, Visit visit) const {
  for (const auto& [number, layer] : layers_) {
    std::byte* begin = layer.memory.data();
    for (const size_t bytes : layer.part_bytes) {
      if (bytes > 0) visit(begin + static_cast<size_t>(page) * bytes, bytes);
      begin += bytes * static_cast<size_t>(options_.kv_pages);
    }
  }
}

size_t CudaExecutable::page_bytes() const {
  size_t bytes = 0;
  visit_page(0, [&](const std::byte*, size_t part) { bytes += part; });
  return bytes;
}

void CudaExecutable::read_page(int32_t page, std::span<std::byte> to) const {
  visit_page(page, [&](const std::byte* at, size_t bytes) {
    check_cuda(cudaMemcpy(to.data(), at, bytes, cudaMemcpyDeviceToHost), "read a page of the KV cache");
    to = to.subspan(bytes);
  });
}

void CudaExecutable::write_page(int32_t page, std::span<const std::byte> from) {
  visit_page(page, [&](std::byte* at, size_t bytes) {
    check_cuda(cudaMemcpy(at, from.data(), bytes, cudaMemcpyHostToDevice), "write a page of the KV cache");
    from = from.subspan(bytes);
  });
}

std::vector<double> CudaExecutable::take_profile() {
  if (!profiling_) return {};
  std::vector<double> result(graph_.nodes().size(), 0.0);
  std::swap(result, profile_);
  return result;
}

void CudaExecutable::add_adapter(int32_t id, std::shared_ptr<const PackedAdapter> adapter) {
  if (!adapters_.add(id, std::static_pointer_cast<const DeviceAdapter>(std::move(adapter)))) captured_.clear();
}

}  // namespace edgewise::cuda
