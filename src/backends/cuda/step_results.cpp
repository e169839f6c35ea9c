#include "backends/cuda/step_results.h"

#include <algorithm>
#include <atomic>
#include <cstring>

namespace edgewise::cuda {
namespace {

bool gives_token(int32_t entry) { return entry == kPickBest || entry == kDraw; }

}  // namespace

StepResults::StepResults(const Graph& graph, const LoadOptions& options)
    : graph_(graph),
      most_rows_(static_cast<size_t>(options.max_rows)),
      columns_(static_cast<int>(graph.value(graph.outputs()[0]).shape[1])),
      tokens_(most_rows_ * sizeof(int32_t), "pinned memory for tokens") {
  for (const ValueId id : graph.outputs()) {
    const Shape& shape = graph.value(id).shape;
    const auto rows = static_cast<size_t>(shape[0] == kRows ? options.max_rows : options.max_tokens);
    staging_.emplace_back(rows * static_cast<size_t>(shape[1]) * sizeof(float), "pinned memory for results");
  }
  pieces_.reserve(most_rows_ + staging_.size());
}

size_t StepResults::bytes() const { return most_rows_ * (sizeof(RowChoice) + draw_bytes(columns_)); }

void StepResults::begin(std::span<const int32_t> chosen) noexcept {
  picks_ = std::ranges::any_of(chosen, gives_token);
  std::ranges::fill_n(tokens_.as<int32_t>(), static_cast<std::ptrdiff_t>(chosen.size()), kPickBest);
}

void StepResults::launch(const StepContext& context) const noexcept {
  if (context.rows == 0) return;
  float* const logits = context.values[graph_.outputs()[0]];
  auto* const choices = choices_.as<RowChoice>();
  auto* const tokens = tokens_.as<int32_t>();
  best_rows(context.stream, logits, context.rows, columns_, context.draws, context.changes, context.allowed, choices,
            tokens);
  if (!context.drawn) return;
  draw_rows(context.stream, logits, context.rows, columns_, device_info().multiprocessors, context.draws, choices,
            choices + most_rows_, tokens);
}

// Asks for rows [first, end) of an output.
void StepResults::ask(const StepContext& context, size_t output, size_t first, size_t end, float* to) noexcept {
  if (first == end) return;
  const ValueId id = graph_.outputs()[output];
  const auto columns = static_cast<size_t>(graph_.value(id).shape[1]);
  const Piece piece{staging_[output].as<float>() + first * columns, to + first * columns, (end - first) * columns};
  cudaMemcpyAsync(piece.staging, context.values[id] + first * columns, piece.count * sizeof(float),
                  cudaMemcpyDeviceToHost, context.stream);
  pieces_.push_back(piece);
}

StepOutcome StepResults::read(const StepContext& context, StepOutputs outputs, std::span<int32_t> chosen) noexcept {
  pieces_.clear();
  for (size_t i = 0; i < std::min(outputs.size(), staging_.size()); ++i) {
    if (outputs[i].empty()) continue;
    const Shape& shape = graph_.value(graph_.outputs()[i]).shape;
    const auto rows = static_cast<size_t>(context.count(shape[0] == kRows));
    if (outputs[i].size() < rows * static_cast<size_t>(shape[1])) return StepOutcome::kTooLarge;
    size_t first = 0;  // of the rows not asked for yet
    for (size_t row = 0; row < rows && i == 0 && picks_; ++row) {
      if (!gives_token(chosen[row])) continue;
      ask(context, i, first, row, outputs[i].data());
      first = row + 1;
    }
    ask(context, i, first, rows, outputs[i].data());
  }
  const bool done =
      pieces_.empty() && picks_ ? await_tokens(context) : cudaStreamSynchronize(context.stream) == cudaSuccess;
  if (!done || cudaGetLastError() != cudaSuccess) return StepOutcome::kDeviceFault;
  for (const Piece& piece : pieces_) std::memcpy(piece.to, piece.staging, piece.count * sizeof(float));
  for (size_t row = 0; row < chosen.size() && picks_; ++row) {
    if (gives_token(chosen[row])) chosen[row] = tokens_.as<const int32_t>()[row];
  }
  return StepOutcome::kDone;
}

// The last kernel's stores are seen some microseconds before the stream knows of its end.
bool StepResults::await_tokens(const StepContext& context) const noexcept {
  constexpr int kLooks = 1 << 14;  // between questions whether all is well
  const std::span tokens(tokens_.as<int32_t>(), static_cast<size_t>(context.rows));
  const auto arrived = [&] {
    return std::ranges::all_of(
        tokens, [](int32_t& token) { return std::atomic_ref(token).load(std::memory_order_acquire) != kPickBest; });
  };
  for (int looks = 1; !arrived(); ++looks) {
    if (looks % kLooks != 0) continue;
    const cudaError_t state = cudaStreamQuery(context.stream);
    if (state != cudaErrorNotReady) return state == cudaSuccess && arrived();
  }
  return true;
}

}  // namespace edgewise::cuda
