#include "backends/cuda/executable.h"

#include <algorithm>
#include <ranges>

#include "base/error.h"

namespace edgewise::cuda {

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

StepOutcome CudaExecutable::run(const StepInput& input, StepOutputs outputs, std::span<int32_t> chosen) noexcept {
  if (fault_ != cudaSuccess) return StepOutcome::kDeviceFault;
  StepContext context =
      context_of(static_cast<int>(input.count(hidden_columns_)), static_cast<int>(input.logits_rows.size()));
  if (context.tokens > options_.max_tokens || context.rows > options_.max_rows) return StepOutcome::kTooLarge;
  if (static_cast<int>(input.sequences.size()) > options_.max_sequences) return StepOutcome::kTooLarge;
  if (context.tokens == 0) return StepOutcome::kDone;
  if (!adapters_.begin_step(input, stream_.get())) return StepOutcome::kDeviceFault;
  context.adapters = adapters_.any();
  context.program = program_runs(context, outputs);
  const Sharing sharing = context.program ? Sharing{program_->most_splits(), 1} : Sharing();
  if (!tables_->fill(input, chosen, sharing)) return StepOutcome::kTooLarge;
  context.several_pages = tables_->several_pages();
  context.whole_tiles = tables_->whole_tiles();
  context.drawn = tables_->any_drawn();
  tables_->describe(context);
  results_.begin(chosen);
  if (hidden_ != kNone) {
    std::ranges::copy(input.hidden, hidden_staging_.as<float>());
    cudaMemcpyAsync(values_[static_cast<size_t>(hidden_)], hidden_staging_.data(), input.hidden.size_bytes(),
                    cudaMemcpyHostToDevice, stream_.get());
  }
  const size_t end = steps_for(outputs);
  StepOutcome outcome = profiling_ || observer_ ? run_nodes(context, end) : launch(context, end);
  if (outcome == StepOutcome::kDone && tables_->any_masks()) {
    input.masks->wait();
    tables_->send_masked(input, context);
    results_.launch(context);
  }
  if (outcome == StepOutcome::kDone) outcome = results_.read(context, outputs, chosen);
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
  return fmt::format("the GPU failed: {} ({}); no further engine runs in this process", cudaGetErrorString(fault_),
                     cudaGetErrorName(fault_));
}

StepOutcome CudaExecutable::launch(const StepContext& context, size_t end) const noexcept {
  const auto found = captured_.find(key_of(context, tables_->tile_bucket(), end));
  if (found == captured_.end()) {
    launch_step(context, end);
    return StepOutcome::kDone;
  }
  return cudaGraphLaunch(found->second.get(), stream_.get()) == cudaSuccess ? StepOutcome::kDone
                                                                            : StepOutcome::kDeviceFault;
}

void CudaExecutable::launch_step(const StepContext& context, size_t end) const noexcept {
  tables_->fetch(context.stream);
  if (context.program)
    launch_program(context, end);
  else
    launch_nodes(context, end);
  results_.launch(context);
}

// The program makes no values but logits.
bool CudaExecutable::program_runs(const StepContext& context, StepOutputs outputs) const noexcept {
  const bool logits_only = std::ranges::all_of(outputs | std::views::drop(1), [](auto o) { return o.empty(); });
  return program_ && logits_only && context.tokens <= kMostDecodeTokens && !context.adapters && !profiling_ &&
         !observer_;
}

CudaExecutable::GraphKey CudaExecutable::key_of(const StepContext& context, int tiles, size_t end) const noexcept {
  return {context.tokens,
          context.rows,
          context.program ? 0 : tiles,
          end,
          context.adapters,
          context.program,
          context.program && context.several_pages,
          !context.program && context.whole_tiles,
          context.program && context.drawn};
}

void CudaExecutable::launch_program(const StepContext& context, size_t end) const noexcept {
  using Part = StepProgram::Part;
  const auto launch_part = [&](Part part) {
    for (size_t i = 0; i < end; ++i) {
      if (program_->part(i) == part) ops_[i]->launch_fused(context);
    }
  };
  launch_part(Part::kBefore);
  program_->launch(context, end);
  launch_part(Part::kAfter);
}

void CudaExecutable::launch_nodes(const StepContext& context, size_t end) const noexcept {
  // Adapters change what Linears give, so nothing may have been added to that yet.
  const bool fused = std::max(context.tokens, context.rows) <= kMostBatchTokens && !context.adapters;
  for (size_t i = 0; i < end; ++i) {
    if (fusions_.in_attention[i]) continue;
    const bool many = context.count(ops_[i]->of_rows) > kMostBatchTokens && !context.adapters;
    const Fusions::Rest rest = fused ? fusions_.rest[i] : Fusions::Rest::kAll;
    if (rest == Fusions::Rest::kNothing || (many && fusions_.gates[i])) continue;
    const bool is_linear = graph_.nodes()[i].op == Op::kLinear;
    if (rest != Fusions::Rest::kAll)
      ops_[i]->launch_rest(context, rest);
    else if (fused || many || !is_linear)
      ops_[i]->launch_fused(context);
    else
      ops_[i]->launch(context);
    if (is_linear && context.adapters) adapters_.launch(i, context, ops_[i]->of_rows);
  }
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
  use.workspace = scratch + counters_.size() + (program_ ? program_->bytes() : 0);
  return use;
}

std::vector<double> CudaExecutable::take_profile() {
  if (!profiling_) return {};
  std::vector<double> result(graph_.nodes().size(), 0.0);
  std::swap(result, profile_);
  return result;
}

}  // namespace edgewise::cuda
