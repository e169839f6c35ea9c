// The shapes of a program's matrices, and the memory that its operators share.
#pragma once

#include <array>
#include <map>
#include <span>
#include <vector>

#include "backends/cuda/step_share.h"
#include "backends/cuda/weights.h"

namespace edgewise::cuda {

class StepShapes {
 public:
  // What decides how a Linear is shared out, beside its matrices.
  struct Use {
    bool paired = false;   // gate and up of one activation
    bool whole_x = false;  // every multiprocessor needs all of x: for a norm
    bool is_head = false;  // results go to plain memory
  };

  explicit StepShapes(int multiprocessors) : multiprocessors_(multiprocessors) {}
  // The number of their shape; -1 where the kernel cannot take them.
  int add(std::span<const DeviceWeights> matrices, const Use& use);
  const StepShape& shape(int number) const { return entries_[static_cast<size_t>(number)].shape; }
  const SharePlan& plan(int number) const { return entries_[static_cast<size_t>(number)].plan; }
  // Where the next operator of the shape puts its results. Two take turns: nobody is more than an operator behind.
  Packets next_packets(int number);
  // What attention puts its results in, [columns], and its parts, [slots][kMostDecodeTokens][state].
  Packets attention_packets(int columns);
  uint64_t* partial_packets(int slots, int64_t state);
  // All shapes and shares, as the kernel reads them.
  void fill(StepCall& call);

  template <typename T>
  T* keep(std::span<const T> values, const char* what) {
    memory_.push_back(upload(std::as_bytes(values), what));
    return memory_.back().template as<T>();
  }
  // Of x, that a multiprocessor keeps.
  int most_columns() const { return most_columns_; }
  // Of a stage, with its scales.
  int most_stage_bytes() const { return most_stage_bytes_; }
  std::vector<DeviceMemory> take_memory() { return std::move(memory_); }

 private:
  struct Entry {
    StepShape shape;
    Use use;
    SharePlan plan;
    int counts_at = -1;
    std::array<uint64_t*, 2> packets = {};
    int uses = 0;
  };
  uint64_t* packets(size_t count);

  int multiprocessors_;
  int most_columns_ = 0;
  int most_stage_bytes_ = 0;
  std::vector<uint8_t> slot_counts_;
  std::vector<Entry> entries_;
  std::map<int, uint64_t*> attention_;
  std::map<int64_t, uint64_t*> partial_;
  std::vector<DeviceMemory> memory_;
};

}  // namespace edgewise::cuda
