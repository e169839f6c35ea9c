// What an executable does while it is loaded: weights to the device, memory for everything, graphs of steps.
#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <numeric>

#include "backends/cuda/executable.h"
#include "backends/memory_plan.h"
#include "base/error.h"

namespace edgewise::cuda {
namespace {

// Of decoding sequences: steps of more are not captured, as their launches take less time than their kernels.
constexpr int kMostCapturedTokens = 64;

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
  program_ = StepProgram::make(*this, ops_);
  tables_ = std::make_unique<StepTables>(options, static_cast<size_t>(graph.value(graph.outputs()[0]).shape[1]),
                                         tile_shapes_, partial_slots_);
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
  auto lives = lifetimes(graph_, fusions_, options_);
  if (program_) program_->extend(graph_, lives);
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
  if (program_) program_->place(values_);
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
// memory of the device.
void CudaExecutable::capture_decoding(bool adapters) {
  const int most = std::min({options_.max_tokens, options_.max_rows, kMostCapturedTokens});
  const int whole_rows = least_tile_rows();
  // A token each, or few tokens of any sequences.
  for (int tokens = 1; tokens <= std::min(most, std::max(options_.max_sequences, kMostDecodeTokens)); ++tokens) {
    const bool few = tokens <= kMostDecodeTokens;
    if (program_ && !adapters && few) {
      capture_program(tokens);
      continue;
    }
    capture_kind(tokens, few ? 1 : tokens, true, adapters);
    if (few && tokens > whole_rows) capture_kind(tokens, 2, false, adapters);
  }
  // As many guesses as there is room for.
  const int guesses = options_.max_rows / options_.max_sequences;
  for (int sequences = 1; guesses > 1 && sequences <= options_.max_sequences && sequences * guesses <= most;
       ++sequences)
    capture_kind(sequences * guesses, sequences * ((guesses + kMostTileRows - 1) / kMostTileRows),
                 guesses <= whole_rows, adapters);
  check_cuda(cudaStreamSynchronize(stream_.get()), "load the graphs of steps");
}

// Rows of a sequence that are one tile, whatever its shape.
int CudaExecutable::least_tile_rows() const {
  int rows = kMostTileRows;
  for (const TileShape& shape : tile_shapes_) rows = std::min(rows, tile_rows(shape.group));
  return rows;
}

// For every number of tiles from `least_tiles` on that so many tokens may have.
void CudaExecutable::capture_kind(int tokens, int least_tiles, bool whole_tiles, bool adapters) {
  const auto end = static_cast<size_t>(graph_.value(graph_.outputs()[0]).producer) + 1;  // where logits are all
  const int most_tiles = std::min(tokens * Sharing().splits_up_to(options_.kv_pages), tokens + partial_slots_);
  for (unsigned tiles = std::bit_ceil(static_cast<unsigned>(least_tiles));
       tiles < 2 * static_cast<unsigned>(most_tiles); tiles *= 2) {
    StepContext context = context_of(tokens, tokens);
    context.adapters = adapters;
    context.whole_tiles = whole_tiles;
    context.drawn = true;
    tables_->describe(context, static_cast<int>(tiles));
    captured_[key_of(context, static_cast<int>(tiles), end)] = capture(context, end);
  }
}

void CudaExecutable::capture_program(int tokens) {
  const auto end = static_cast<size_t>(graph_.value(graph_.outputs()[0]).producer) + 1;
  for (const bool several_pages : {false, true}) {
    for (const bool drawn : {false, true}) {
      StepContext context = context_of(tokens, tokens);
      context.program = true;
      context.several_pages = several_pages;
      context.drawn = drawn;
      tables_->describe(context, 1);
      captured_[key_of(context, 0, end)] = capture(context, end);
    }
  }
}

// Seconds of a step of one token behind a short history; the shortest of a few.
double CudaExecutable::time_token() {
  constexpr int kRuns = 10;
  constexpr int kHistory = 256;
  const int length = std::min(kHistory, options_.kv_pages * kPageTokens - 1);
  std::vector<int32_t> pages(static_cast<size_t>(options_.kv_pages));
  std::iota(pages.begin(), pages.end(), 0);
  const int32_t token = 0;
  const int32_t row = 0;
  const int32_t position = length;
  const std::vector<float> hidden(static_cast<size_t>(hidden_columns_));
  const SequenceSlice sequence{0, 1, length, length + 1, pages};
  std::vector<float> logits(static_cast<size_t>(graph_.value(graph_.outputs()[0]).shape[1]));
  const std::span<float> first(logits);  // asked for, so that the step is one of the captured ones
  double best = INFINITY;
  for (int i = 0; i < kRuns; ++i) {
    int32_t picked = kPickBest;
    const auto start = std::chrono::steady_clock::now();
    const StepInput input{{&token, 1}, {&position, 1}, hidden, {&sequence, 1}, {&row, 1}};
    if (run(input, StepOutputs(&first, 1), {&picked, 1}) != StepOutcome::kDone)
      check_cuda(fault_ != cudaSuccess ? fault_ : cudaErrorUnknown, "time a step");
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

void CudaExecutable::choose_program() {
  constexpr double kWorthIt = 0.98;  // what is almost equal stays with the kernels, as longer steps do
  if (options_.kv_pages == 0) return;
  if (!program_) {
    remark_ = "steps run kernel by kernel: no single kernel takes this graph on this GPU";
    return;
  }
  capture_kind(1, 1, true, false);
  const double together = time_token();
  auto program = std::move(program_);
  const double apart = time_token();
  cache_.clear();
  const bool wins = together < kWorthIt * apart;
  remark_ = fmt::format("steps of up to {} tokens run {}: one kernel took {:.0f} us, many {:.0f} us", kMostDecodeTokens,
                        wins ? "as one kernel" : "kernel by kernel", together * 1e6, apart * 1e6);
  if (wins) {
    program_ = std::move(program);
    return;
  }
  std::erase_if(captured_, [](const auto& entry) { return entry.first.program; });
  capture_decoding(false);
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

int CudaExecutable::tiles_of(const TileShape& shape) {
  const auto found = std::ranges::find(tile_shapes_, shape);
  if (found != tile_shapes_.end()) return static_cast<int>(found - tile_shapes_.begin());
  tile_shapes_.push_back(shape);
  return static_cast<int>(tile_shapes_.size() - 1);
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

void CudaExecutable::add_adapter(int32_t id, std::shared_ptr<const PackedAdapter> adapter) {
  if (adapters_.add(id, std::static_pointer_cast<const DeviceAdapter>(std::move(adapter)))) return;
  std::erase_if(captured_, [](const auto& entry) { return entry.first.adapters; });
  capture_decoding(true);
}

}  // namespace edgewise::cuda
