// Low-rank adapters on the device, beside the Linears they change.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "backends/backend.h"
#include "backends/cuda/device.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/ops.h"

namespace edgewise::cuda {

struct DeviceAdapter : PackedAdapter {
  struct Part {
    size_t node = 0;
    size_t output = 0;  // of the node's
    LowRankPart weights;
  };
  std::vector<Part> parts;
  std::vector<DeviceMemory> matrices;
  int rank = 0;  // the largest
  size_t bytes = 0;
};

class AdapterTable {
 public:
  AdapterTable(const Graph& graph, const LoadOptions& options);
  // From any thread.
  std::shared_ptr<const DeviceAdapter> pack(const Adapter& adapter) const;
  // Between steps. False when room had to be made, so that graphs captured before are of no use.
  bool add(int32_t id, std::shared_ptr<const DeviceAdapter> adapter);
  void remove(int32_t id) noexcept;
  // False when a sequence names an adapter that is not here.
  bool begin_step(const StepInput& input, cudaStream_t stream) noexcept;
  // Whether some row of the step has one.
  bool any() const noexcept { return any_; }
  // Onto the outputs of a Linear that has just run.
  void launch(size_t node, const StepContext& context, bool of_rows) const noexcept;
  size_t bytes() const;
  // On the device, which place() gives it.
  size_t row_bytes() const { return rows_host_.size(); }
  void place(DeviceArena& arena) { rows_ = arena.take(row_bytes()); }

 private:
  struct Output {
    ValueId id = kNone;
    size_t first = 0;  // of its entries in the table, one a slot
  };
  struct Loaded {
    int slot = 0;
    std::shared_ptr<const DeviceAdapter> adapter;
  };
  void make_room(int slots, int rank);
  void write_slot(int slot, const DeviceAdapter* adapter) noexcept;

  const Graph& graph_;
  int most_tokens_;
  int most_rows_;
  std::vector<std::vector<Output>> outputs_;  // of Linears, by node
  size_t output_count_ = 0;
  std::map<int32_t, Loaded> loaded_;
  int slots_ = 0;
  int rank_ = 0;                    // that there is room for
  std::vector<LowRankPart> table_;  // [outputs][slots], as on the device
  DeviceMemory device_table_;
  PinnedMemory rows_host_;  // [N] slots of tokens, [R] of rows
  DeviceBytes rows_;
  DeviceMemory hidden_;
  bool any_ = false;
};

}  // namespace edgewise::cuda
