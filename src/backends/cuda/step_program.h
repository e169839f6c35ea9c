// A graph as the list of operators that step_kernel.h runs, where it is one that it can run: Linears with norms, gates
// and sums between them, and attention, as decoders of the Llama and Qwen kind are.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "backends/cuda/ops.h"
#include "backends/cuda/step_kernel.h"
#include "backends/cuda/step_tables.h"
#include "backends/memory_plan.h"

namespace edgewise::cuda {

class StepProgram {
 public:
  // Null where the graph or the GPU is not one for it. `ops` are those of the graph's nodes.
  static std::unique_ptr<StepProgram> make(BuildContext& context, const std::vector<std::unique_ptr<CudaOp>>& ops);

  // What becomes of a node in a step that the program runs.
  enum class Part : uint8_t { kBefore, kInside, kAfter, kNeedless };
  Part part(size_t node) const { return parts_[node]; }
  // Keeps what the program reads alive until it has run.
  void extend(const Graph& graph, std::vector<Lifetime>& lives) const;
  // Where values lie; before the first launch.
  void place(std::span<float* const> values);
  // The nodes inside before `end`, at once.
  void launch(const StepContext& context, size_t end) const noexcept;
  // How many blocks may share a history, so that all of a row's key heads run at once.
  int most_splits() const { return std::clamp(device_info().multiprocessors / most_kv_heads_, 1, kMostSplits); }
  size_t bytes() const;

 private:
  friend class StepPlanner;
  StepProgram() = default;
  void lay_out(StepCall& call) const;
  bool fits() const;

  std::vector<Part> parts_;
  std::vector<StepOp> ops_;
  std::vector<size_t> nodes_;  // of the operators
  std::vector<DeviceMemory> memory_;
  ValueId plain_ = kNone;  // what the first operator reads
  ValueId result_ = kNone;
  std::map<size_t, std::pair<ValueId, ValueId>> angles_;  // cosines and sines, by operator
  StepCall call_;
  int most_group_ = 1;  // query heads a key head
  int most_kv_heads_ = 1;
  int most_head_dim_ = 0;
  int value_bytes_ = 2;   // of the cache
  int most_columns_ = 0;  // of x that a multiprocessor keeps
};

}  // namespace edgewise::cuda
