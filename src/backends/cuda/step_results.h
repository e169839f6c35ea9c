// What a step brings back to the host: tokens that kernels put into its memory, and values that are copied there.
#pragma once

#include <vector>

#include "backends/backend.h"
#include "backends/cuda/device.h"
#include "backends/cuda/ops.h"

namespace edgewise::cuda {

class StepResults {
 public:
  StepResults(const Graph& graph, const LoadOptions& options);
  // Before the step is launched.
  void begin(std::span<const int32_t> best) noexcept;
  // Chooses a token for each row of logits; behind the graph's last node. Where `drawn` is not set, no row draws.
  void launch(const StepContext& context) const noexcept;
  // Waits for the step, and takes what was asked for of it.
  StepOutcome read(const StepContext& context, StepOutputs outputs, std::span<int32_t> chosen) noexcept;
  // On the device, which place() gives it.
  size_t bytes() const;
  void place(DeviceArena& arena) { choices_ = arena.take(bytes()); }

 private:
  // Values on their way to the host.
  struct Piece {
    float* staging;
    float* to;
    size_t count;
  };
  void ask(const StepContext& context, size_t output, size_t first, size_t end, float* to) noexcept;
  bool await_tokens(const StepContext& context) const noexcept;

  const Graph& graph_;
  size_t most_rows_;
  int columns_;                        // of logits
  std::vector<PinnedMemory> staging_;  // of each output
  PinnedMemory tokens_;                // [R], kPickBest until they are there
  DeviceBytes choices_;                // [R] what finding them takes, and drawing them
  std::vector<Piece> pieces_;          // of this step
  bool picks_ = false;                 // some row gives a token
};

}  // namespace edgewise::cuda
