// A graph loaded on the CPU: one object an operator, one arena, one parallel region a step.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "backends/backend.h"
#include "backends/cpu/low_rank.h"
#include "backends/cpu/ops.h"
#include "base/thread_pool.h"

namespace edgewise::cpu {

// Zeroed pages of memory from the system, touched lazily, with huge pages asked for.
class PageMemory {
 public:
  explicit PageMemory(size_t bytes);
  ~PageMemory();
  PageMemory(const PageMemory&) = delete;
  PageMemory& operator=(const PageMemory&) = delete;
  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

class CpuExecutable final : public Executable {
 public:
  CpuExecutable(const Graph& graph, const LoadOptions& options, Isa isa);
  using Executable::run;
  StepOutcome run(const StepInput& input, StepOutputs outputs, std::span<int32_t> chosen) noexcept override;
  void copy_slots(std::span<const SlotCopy> copies) noexcept override;
  MemoryUse memory() const override;
  size_t page_bytes() const override;
  void read_page(int32_t page, std::span<std::byte> to) const override;
  void write_page(int32_t page, std::span<const std::byte> from) override;
  void set_profiling(bool on) override { profiling_ = on; }
  std::vector<double> take_profile() override;
  std::shared_ptr<const PackedAdapter> pack_adapter(const Adapter& adapter) const override {
    return adapters_.pack(adapter);
  }
  using Executable::add_adapter;
  void add_adapter(int32_t id, std::shared_ptr<const PackedAdapter> adapter) override {
    adapters_.add(id, std::static_pointer_cast<const LoadedAdapter>(std::move(adapter)));
  }
  void remove_adapter(int32_t id) noexcept override { adapters_.remove(id); }
  void observe(NodeObserver observer) override { observer_ = std::move(observer); }

 private:
  // A node ready to run.
  struct Step {
    std::unique_ptr<CpuOp> op;
    bool of_rows = false;
  };

  // A layer's part of the KV cache.
  struct Layer {
    KvLayout layout;
    std::unique_ptr<PageMemory> memory;
    KvPages pages;
  };

  void build(const BuildContext& context);
  void place_values();
  KvPages pages_of(const Node& node);
  template <typename Visit>
  void visit_page(int32_t page, Visit visit) const;
  bool place_outputs(const StepInput& input, StepOutputs outputs) noexcept;
  size_t steps_for(StepOutputs outputs) const noexcept;
  void run_nodes(StepContext& context, int worker) noexcept;
  void report(size_t node, const StepContext& context);

  const Graph& graph_;
  LoadOptions options_;
  std::shared_ptr<ThreadPool> shared_pool_;
  ThreadPool& pool_;
  AdapterSet adapters_;
  std::vector<Step> steps_;
  size_t end_ = 0;              // of the steps that run this time
  std::vector<float*> values_;  // by value id; into the arena
  std::vector<float*> homes_;   // of the outputs; into the arena
  ValueId hidden_ = kNone;      // the graph's input of activations, where it has one
  int64_t hidden_columns_ = 0;
  std::unique_ptr<PageMemory> arena_;
  std::unique_ptr<PageMemory> workspace_;
  std::map<int64_t, Layer> layers_;
  std::vector<double> profile_;
  bool profiling_ = false;
  bool failed_ = false;  // an observer threw
  NodeObserver observer_;
};

}  // namespace edgewise::cpu
