#include "backends/cpu/executable.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <new>

#include "backends/best_rows.h"
#include "backends/memory_plan.h"
#include "base/error.h"

namespace edgewise::cpu {

PageMemory::PageMemory(size_t bytes) {
  constexpr size_t kHugePage = size_t{2} << 20;
  size_ = std::max<size_t>(bytes, 1);
  if (size_ >= kHugePage) size_ = (size_ + kHugePage - 1) / kHugePage * kHugePage;
  void* memory = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  madvise(memory, size_, MADV_HUGEPAGE);
  data_ = static_cast<std::byte*>(memory);
}

PageMemory::~PageMemory() { munmap(data_, size_); }

Tensor float_constant(const Graph& graph, const Node& node, size_t input) {
  if (input >= node.inputs.size() || node.inputs[input] == kNone) return {};
  return graph.constant(node.inputs[input]).cast(DType::kF32);
}

std::unique_ptr<CpuOp> make_op(const BuildContext& context, const Node& node) {
  switch (node.op) {
    case Op::kLinear:
      return make_linear_op(context, node);
    case Op::kAttention:
      return make_attention_op(context, node);
    case Op::kMoe:
      return make_moe_op(context, node);
    default:
      return make_row_op(context, node);
  }
}

CpuExecutable::CpuExecutable(const Graph& graph, const LoadOptions& options, Isa isa)
    : graph_(graph),
      options_(options),
      shared_pool_(options.pool ? options.pool : std::make_shared<ThreadPool>(options.threads)),
      pool_(*shared_pool_),
      adapters_(graph, options, isa, pool_.size()),
      values_(graph.values().size(), nullptr) {
  BuildContext context;
  context.graph = &graph;
  context.options = &options_;
  context.isa = isa;
  context.workers = pool_.size();
  context.owner = this;
  context.pages_of = [](void* owner, const Node& node) { return static_cast<CpuExecutable*>(owner)->pages_of(node); };
  hidden_ = graph.find_value(kHiddenInput);
  if (hidden_ != kNone) hidden_columns_ = graph.value(hidden_).shape.at(1);
  build(context);
  place_values();
  profile_.assign(graph.nodes().size(), 0.0);
}

KvPages CpuExecutable::pages_of(const Node& node) {
  const KvLayout layout = KvLayout::make(options_.kv_dtype, static_cast<int>(node.integer("kv_heads")),
                                         static_cast<int>(node.integer("head_dim")));
  const auto pages = static_cast<size_t>(options_.kv_pages);
  Layer& layer = layers_[node.integer("layer")];
  const size_t keys = layout.key_page_bytes() * pages;
  if (layer.memory == nullptr) {
    layer.layout = layout;
    layer.memory = std::make_unique<PageMemory>(keys + layout.value_page_bytes() * pages);
    layer.pages = {layer.memory->data(), layer.memory->data() + keys};
  }
  return layer.pages;
}

// Its keys and values in every layer, in order.
template <typename Visit>
void CpuExecutable::visit_page(int32_t page, Visit visit) const {
  for (const auto& [number, layer] : layers_) {
    visit(std::span(layer.pages.key_head(layer.layout, page, 0), layer.layout.key_page_bytes()));
    visit(std::span(layer.pages.value_head(layer.layout, page, 0), layer.layout.value_page_bytes()));
  }
}

size_t CpuExecutable::page_bytes() const {
  size_t bytes = 0;
  visit_page(0, [&](std::span<std::byte> part) { bytes += part.size(); });
  return bytes;
}

void CpuExecutable::read_page(int32_t page, std::span<std::byte> to) const {
  visit_page(page, [&](std::span<std::byte> part) {
    std::ranges::copy(part, to.begin());
    to = to.subspan(part.size());
  });
}

void CpuExecutable::write_page(int32_t page, std::span<const std::byte> from) {
  visit_page(page, [&](std::span<std::byte> part) {
    std::ranges::copy(from.first(part.size()), part.begin());
    from = from.subspan(part.size());
  });
}

void CpuExecutable::build(const BuildContext& context) {
  size_t workspace = 0;
  for (const Node& node : graph_.nodes()) {
    Step step;
    step.op = make_op(context, node);
    step.of_rows = !node.outputs.empty() && graph_.value(node.outputs[0]).shape[0] == kRows;
    step.op->of_rows = step.of_rows;
    step.op->node = steps_.size();
    workspace = std::max(workspace, step.op->workspace());
    steps_.push_back(std::move(step));
  }
  workspace_ = std::make_unique<PageMemory>(workspace);
}

void CpuExecutable::place_values() {
  // Neighbours that may run without a barrier between them count as one step: nothing may be overwritten
  // there.
  std::vector<int> numbers(steps_.size(), 0);
  for (size_t i = 1; i < steps_.size(); ++i) {
    const bool together = steps_[i].op->may_share_rows() && steps_[i - 1].op->may_share_rows() &&
                          steps_[i].of_rows == steps_[i - 1].of_rows;
    numbers[i] = numbers[i - 1] + (together ? 0 : 1);
  }
  const auto lives = value_lifetimes(graph_, numbers, options_.max_tokens, options_.max_rows, sizeof(float));
  const MemoryPlan plan = plan_memory(lives);
  arena_ = std::make_unique<PageMemory>(plan.total);
  for (size_t i = 0; i < lives.size(); ++i) {
    if (lives[i].bytes > 0) values_[i] = reinterpret_cast<float*>(arena_->data() + plan.offsets[i]);
  }
  for (const ValueId id : graph_.outputs()) homes_.push_back(values_[static_cast<size_t>(id)]);
}

// The operators that make wanted outputs write them where the caller wants them. False when one does not fit.
bool CpuExecutable::place_outputs(const StepInput& input, StepOutputs outputs) noexcept {
  for (size_t i = 0; i < homes_.size(); ++i) {
    const auto id = static_cast<size_t>(graph_.outputs()[i]);
    const bool wanted = i < outputs.size() && !outputs[i].empty();
    values_[id] = wanted ? outputs[i].data() : homes_[i];
    const Shape& shape = graph_.value(graph_.outputs()[i]).shape;
    const size_t rows = shape[0] == kRows ? input.logits_rows.size() : input.count(hidden_columns_);
    if (wanted && outputs[i].size() < rows * static_cast<size_t>(shape[1])) return false;
  }
  return true;
}

// Steps behind the last one that a wanted output needs are left out: nodes stand in topological order.
size_t CpuExecutable::steps_for(StepOutputs outputs) const noexcept {
  size_t end = 0;
  for (size_t i = 0; i < std::min(outputs.size(), homes_.size()); ++i) {
    const NodeId maker = graph_.value(graph_.outputs()[i]).producer;
    if (!outputs[i].empty()) end = std::max(end, static_cast<size_t>(maker + 1));
  }
  return end == 0 ? steps_.size() : end;
}

StepOutcome CpuExecutable::run(const StepInput& input, StepOutputs outputs, std::span<int32_t> chosen) noexcept {
  const auto tokens = static_cast<int>(input.count(hidden_columns_));
  const auto rows = static_cast<int>(input.logits_rows.size());
  if (tokens > options_.max_tokens || rows > options_.max_rows) return StepOutcome::kTooLarge;
  if (static_cast<int>(input.sequences.size()) > options_.max_sequences) return StepOutcome::kTooLarge;
  if (!adapters_.begin_step(input)) return StepOutcome::kDeviceFault;
  if (!place_outputs(input, outputs)) return StepOutcome::kTooLarge;
  // Read in place: no operator writes to a graph input.
  if (hidden_ != kNone) values_[static_cast<size_t>(hidden_)] = const_cast<float*>(input.hidden.data());
  end_ = steps_for(outputs);
  StepContext context;
  context.input = &input;
  context.tokens = tokens;
  context.rows = rows;
  context.values = values_.data();
  context.workspace = workspace_->data();
  context.pool = &pool_;
  if (adapters_.any()) context.adapters = &adapters_;
  failed_ = false;
  pool_.run([&](int worker) { run_nodes(context, worker); });
  if (!chosen.empty()) pick_best(outputs[0], graph_.value(graph_.outputs()[0]).shape[1], chosen);
  return failed_ ? StepOutcome::kDeviceFault : StepOutcome::kDone;
}

void CpuExecutable::run_nodes(StepContext& context, int worker) noexcept {
  using Clock = std::chrono::steady_clock;
  const int workers = pool_.size();
  const bool observed = static_cast<bool>(observer_);
  const bool timed = profiling_ && worker == 0;
  Clock::time_point start = timed ? Clock::now() : Clock::time_point{};
  for (size_t i = 0; i < end_; ++i) {
    const Step& step = steps_[i];
    const int count = context.count(step.of_rows);
    step.op->run(context, worker, workers);
    bool barrier = true;
    if (i + 1 < end_ && step.of_rows == steps_[i + 1].of_rows) {
      barrier = step.op->sharing(count, workers) != Sharing::kRows ||
                steps_[i + 1].op->sharing(count, workers) != Sharing::kRows;
    }
    if (barrier || observed) pool_.barrier();
    if (timed) {
      const Clock::time_point now = Clock::now();
      profile_[i] += std::chrono::duration<double>(now - start).count();
      start = now;
    }
    if (!observed) continue;
    if (worker == 0) report(i, context);
    pool_.barrier();
  }
}

void CpuExecutable::report(size_t index, const StepContext& context) {
  try {
    const Node& node = graph_.nodes()[index];
    std::vector<Tensor> outputs;
    for (const ValueId id : node.outputs) {
      const Shape& shape = graph_.value(id).shape;
      const int64_t rows = context.count(shape[0] == kRows);
      const int64_t columns = shape.size() > 1 ? shape[1] : 1;
      outputs.push_back(
          Tensor::from_floats(DType::kF32, {rows, columns}, {context.values[id], static_cast<size_t>(rows * columns)}));
    }
    observer_(node, outputs);
  } catch (const std::exception&) {
    failed_ = true;  // the step goes on, so that no worker waits for ever
  }
}

void CpuExecutable::copy_slots(std::span<const SlotCopy> copies) noexcept {
  for (const auto& [layer, kv] : layers_) {
    for (const SlotCopy& copy : copies) {
      for (int head = 0; head < kv.layout.kv_heads; ++head) {
        copy_slot(kv.layout, kv.pages.head(kv.layout, copy.from_page, head), copy.from_slot,
                  kv.pages.head(kv.layout, copy.to_page, head), copy.to_slot);
      }
    }
  }
}

MemoryUse CpuExecutable::memory() const {
  MemoryUse use;
  for (const Step& step : steps_) use.weights += step.op->weight_bytes();
  for (const auto& [number, layer] : layers_) use.kv_cache += layer.memory->size();
  use.weights += adapters_.bytes();
  use.activations = arena_->size();
  use.workspace = workspace_->size();
  return use;
}

std::vector<double> CpuExecutable::take_profile() {
  if (!profiling_) return {};
  std::vector<double> result(graph_.nodes().size(), 0.0);
  std::swap(result, profile_);
  return result;
}

}  // namespace edgewise::cpu
