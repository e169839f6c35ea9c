#include "backends/cuda/executable.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "backends/memory_plan.h"
#include "base/error.h"

namespace edgewise::cuda {
namespace {

// Of decoding sequences: steps of more are not captured, as their launches take less time than their kernels.
constexpr int kMostCapturedTokens = 64;
constexpr int kMostSplits = 32;  // of a sequence's history

size_t total_constant_bytes(const Graph& graph) {
  size_t bytes = 0;
  for (const Node& node : graph.nodes()) bytes += constant_bytes(graph, node);
  return bytes;
}

size_t largest_constant(const Graph& graph) {
  size_t bytes = 1;
  for (const Node& node : graph.nodes()) bytes = std::max(bytes, constant_bytes(graph, node));
  return bytes;
}

std::vector<Lifetime> lifetimes(const Graph& graph, const Fusions& fusions, const LoadOptions& options) {
  std::vector<int> numbers(graph.nodes().size());
  std::iota(numbers.begin(), numbers.end(), 0);
  auto lives = value_lifetimes(graph, numbers, options.max_tokens, options.max_rows, sizeof(float));
  fusions.extend(graph, lives);
  return lives;
}

// States of unfinished softmaxes: 32 for each tile of a few sequences' few rows. More sequences share ranges out less.
int slots_for(const LoadOptions& options) {
  const int pages = std::min(options.kv_pages, kMostSplits);
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

size_t bytes_beside_cache(const Graph& graph, const LoadOptions& options) {
  return total_constant_bytes(graph) + plan_memory(lifetimes(graph, find_fusions(graph), options), 256).total;
}

CudaExecutable::CudaExecutable(const Graph& graph, const LoadOptions& options)
    : graph_(graph),
      options_(options),
      fusions_(find_fusions(graph)),
      partial_slots_(slots_for(options)),
      weights_(total_constant_bytes(graph), "the weights",
               "quantize the model to fewer bits, or end what else uses the GPU"),
      cache_(graph, options),
      values_(graph.values().size(), nullptr),
      adapters_(graph, options),
      results_(graph, options) {
  hidden_ = graph.find_value(kHiddenInput);
  if (hidden_ != kNone) hidden_columns_ = graph.value(hidden_).shape.at(1);
  uploader_ = std::make_unique<Uploader>(largest_constant(graph));
  size_t workspace = 0;
  for (size_t i = 0; i < graph.nodes().size(); ++i) {
    const Node& node = graph.nodes()[i];
    auto op = make_op(*this, static_cast<NodeId>(i));
    op->of_rows = !node.outputs.empty() && graph.value(node.outputs[0]).shape[0] == kRows;
    workspace = std::max(workspace, op->workspace());
    ops_.push_back(std::move(op));
  }
  uploader_->finish();
  uploader_.reset();
  tables_ = std::make_unique<StepTables>(options, groups_, partial_slots_);
  place_values(workspace);
  profile_.assign(graph.nodes().size(), 0.0);
  warm_up();
  capture_decoding(false);
}

DeviceBytes CudaExecutable::keep(std::span<const std::byte> bytes) const {
  const DeviceBytes part = weights_.take(bytes.size());
  uploader_->copy(bytes, part.data());
  return part;
}

// Activations, scratch memory and what a step knows and gives.
void CudaExecutable::place_values(size_t workspace) {
  const auto lives = lifetimes(graph_, fusions_, options_);
  const MemoryPlan plan = plan_memory(lives, 256);
  const auto hidden_bytes = static_cast<size_t>(options_.max_tokens * hidden_columns_) * sizeof(float);
  size_t all = 0;
  for (const size_t bytes :
       {plan.total, hidden_bytes, workspace, tables_->bytes(), results_.bytes(), adapters_.row_bytes()})
    all += DeviceArena::rounded(bytes);
  work_ = DeviceArena(all, "activations and scratch memory", "build with a smaller --maxBatchSize or --maxInputLen");
  const DeviceBytes activations = work_.take(plan.total);
  const DeviceBytes hidden = work_.take(hidden_bytes);
  workspace_ = work_.take(workspace);
  tables_->place(work_);
  results_.place(work_);
  adapters_.place(work_);
  for (size_t i = 0; i < lives.size(); ++i) {
    if (lives[i].bytes > 0) values_[i] = activations.as<float>(plan.offsets[i]);
  }
  if (hidden_ != kNone) values_[static_cast<size_t>(hidden_)] = hidden.as<float>();
  hidden_staging_ = PinnedMemory(hidden_bytes, "pinned memory for activations");
}

// Steps of each kind, so that what the driver loads with a kernel's first launch is there, and none waits for it.
void CudaExecutable::warm_up() {
  const int most = std::min(options_.max_tokens, options_.kv_pages * kPageTokens);
  std::vector<int32_t> pages(static_cast<size_t>(options_.kv_pages));
  std::iota(pages.begin(), pages.end(), 0);
  for (const int count : {1, 5, kMostCapturedTokens, most}) {
    if (count > most) continue;
    const std::vector<int32_t> tokens(static_cast<size_t>(count));
    std::vector<int32_t> positions(tokens.size());
    std::iota(positions.begin(), positions.end(), 0);
    const std::vector<float> hidden(tokens.size() * static_cast<size_t>(hidden_columns_));
    const SequenceSlice sequence{0, count, 0, count, pages};
    const int32_t row = count - 1;
    if (run({tokens, positions, hidden, {&sequence, 1}, {&row, 1}}, StepOutputs()) != StepOutcome::kDone)
      check_cuda(fault_ != cudaSuccess ? fault_ : cudaErrorUnknown, "run a first step");
  }
  cache_.clear();
}

// One graph for each kind of step of sequences that decode, all of them while the engine is loaded: a graph takes
// memory of the device. Few tokens may be of one sequence, which tries guesses.
void CudaExecutable::capture_decoding(bool adapters) {
  const int most = std::min({std::max(options_.max_sequences, kMostDecodeTokens), options_.max_tokens,
                             options_.max_rows, kMostCapturedTokens});
  const auto end = static_cast<size_t>(graph_.value(graph_.outputs()[0]).producer) + 1;  // where logits are all
  for (int tokens = 1; tokens <= most; ++tokens) {
    const int most_tiles = std::min(tokens * std::min(options_.kv_pages, kMostSplits), tokens + partial_slots_);
    const unsigned least = tokens <= kMostDecodeTokens ? 1 : std::bit_ceil(static_cast<unsigned>(tokens));
    for (unsigned tiles = least; tiles < 2 * static_cast<unsigned>(most_tiles); tiles *= 2) {
      StepContext context = context_of(tokens, tokens);
      context.adapters = adapters;
      tables_->describe(context, static_cast<int>(tiles));
      captured_[{tokens, tokens, static_cast<int>(tiles), end, adapters}] = capture(context, end);
    }
  }
  check_cuda(cudaStreamSynchronize(stream_.get()), "load the graphs of steps");
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
    const size_t bytes = static_cast<size_t>(partial_slots_ * kv_heads) * sizeof(int32_t);
    counters_ = DeviceArena(bytes, "counters", "build with a smaller --maxBatchSize");
    arrived_ = counters_.take(bytes).as<int32_t>();
  }
  return arrived_;
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

StepContext CudaExecutable::context_of(int tokens, int rows) const noexcept {
  StepContext context;
  context.tokens = tokens;
  context.rows = rows;
  context.stream = stream_.get();
  context.values = values_.data();
  context.workspace = workspace_.data();
  return context;
}

StepOutcome CudaExecutable::run(const StepInput& input, StepOutputs outputs, std::span<int32_t> best) noexcept {
  if (fault_ != cudaSuccess) return StepOutcome::kDeviceFault;
  StepContext context =
      context_of(static_cast<int>(input.count(hidden_columns_)), static_cast<int>(input.logits_rows.size()));
  if (context.tokens > options_.max_tokens || context.rows > options_.max_rows) return StepOutcome::kTooLarge;
  if (static_cast<int>(input.sequences.size()) > options_.max_sequences) return StepOutcome::kTooLarge;
  if (context.tokens == 0) return StepOutcome::kDone;
  if (!tables_->fill(input)) return StepOutcome::kTooLarge;
  if (!adapters_.begin_step(input, stream_.get())) return StepOutcome::kDeviceFault;
  context.adapters = adapters_.any();
  tables_->describe(context);
  results_.begin(best);
  if (hidden_ != kNone) {
    std::ranges::copy(input.hidden, hidden_staging_.as<float>());
    cudaMemcpyAsync(values_[static_cast<size_t>(hidden_)], hidden_staging_.data(), input.hidden.size_bytes(),
                    cudaMemcpyHostToDevice, stream_.get());
  }
  const size_t end = steps_for(outputs);
  StepOutcome outcome = profiling_ || observer_ ? run_nodes(context, end) : launch(context, end);
  if (outcome == StepOutcome::kDone) outcome = results_.read(context, outputs, best);
  if (outcome == StepOutcome::kDeviceFault) note_fault();
  return outcome;
}

// What outlives the failed step makes all further ones of this process fail.
void CudaExecutable::note_fault() noexcept {
  cudaGetLastError();
  fault_ = cudaStreamSynchronize(stream_.get());
}

std::string CudaExecutable::fault() const {
  if (fault_ == cudaSuccess) return "";
  return fmt::format("the GPU failed: {} ({}); the program has to be started anew", cudaGetErrorString(fault_),
                     cudaGetErrorName(fault_));
}

StepOutcome CudaExecutable::launch(const StepContext& context, size_t end) const noexcept {
  const auto found = captured_.find({context.tokens, context.rows, tables_->tile_bucket(), end, context.adapters});
  if (found == captured_.end()) {
    launch_step(context, end);
    return StepOutcome::kDone;
  }
  return cudaGraphLaunch(found->second.get(), stream_.get()) == cudaSuccess ? StepOutcome::kDone
                                                                            : StepOutcome::kDeviceFault;
}

void CudaExecutable::launch_step(const StepContext& context, size_t end) const noexcept {
  tables_->fetch(context.stream);
  launch_nodes(context, end);
  results_.launch(context);
}

void CudaExecutable::launch_nodes(const StepContext& context, size_t end) const noexcept {
  // Adapters change what Linears give, so nothing may have been added to that yet.
  const bool few = std::max(context.tokens, context.rows) <= kMostDecodeTokens && !context.adapters;
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
    if (is_linear && context.adapters) adapters_.launch(i, context, ops_[i]->of_rows);
  }
}

StepGraph CudaExecutable::capture(const StepContext& context, size_t end) const {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t ready = nullptr;
  check_cuda(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal), "capture a step");
  launch_step(context, end);
  check_cuda(cudaStreamEndCapture(stream_.get(), &graph), "capture a step");
  const cudaError_t result = cudaGraphInstantiate(&ready, graph, 0);
  cudaGraphDestroy(graph);
  check_cuda(result, "make a graph of a step");
  StepGraph step(ready);
  check_cuda(cudaGraphUpload(ready, stream_.get()), "load the graph of a step");
  return step;
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
      if (context.adapters && graph_.nodes()[i].op == Op::kLinear) adapters_.launch(i, context, ops_[i]->of_rows);
      cudaEventRecord(stop.get(), stream_.get());
      check_cuda(cudaStreamSynchronize(stream_.get()), graph_.nodes()[i].name.c_str());
      check_cuda(cudaGetLastError(), graph_.nodes()[i].name.c_str());
      float milliseconds = 0;
      cudaEventElapsedTime(&milliseconds, start.get(), stop.get());
      profile_[i] += milliseconds / 1e3;
      if (observer_) report(i, context);
    }
    results_.launch(context);
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
  if (fault_ == cudaSuccess && !cache_.copy_slots(stream_.get(), copies)) note_fault();
}

MemoryUse CudaExecutable::memory() const {
  MemoryUse use;
  for (const auto& op : ops_) use.weights += op->weight_bytes();
  use.weights += adapters_.bytes();
  use.kv_cache = cache_.size();
  const size_t scratch = workspace_.size() + tables_->bytes() + results_.bytes();
  use.activations = work_.size() - scratch;
  use.workspace = scratch + counters_.size();
  return use;
}

std::vector<double> CudaExecutable::take_profile() {
  if (!profiling_) return {};
  std::vector<double> result(graph_.nodes().size(), 0.0);
  std::swap(result, profile_);
  return result;
}

void CudaExecutable::add_adapter(int32_t id, std::shared_ptr<const PackedAdapter> adapter) {
  if (adapters_.add(id, std::static_pointer_cast<const DeviceAdapter>(std::move(adapter)))) return;
  std::erase_if(captured_, [](const auto& entry) { return entry.first.adapters; });
  capture_decoding(true);
}

}  // namespace edgewise::cuda
