// A graph loaded on the GPU: one object an operator, one arena, one CUDA graph a kind of step.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "backends/backend.h"
#include "backends/cuda/adapters.h"
#include "backends/cuda/arena.h"
#include "backends/cuda/device.h"
#include "backends/cuda/kv_memory.h"
#include "backends/cuda/ops.h"
#include "backends/cuda/step_program.h"
#include "backends/cuda/step_results.h"
#include "backends/cuda/step_tables.h"

namespace edgewise::cuda {

// What the weights and activations of a graph take of the device.
size_t bytes_beside_cache(const Graph& graph, const LoadOptions& options);

class CudaExecutable final : public Executable, private BuildContext {
 public:
  CudaExecutable(const Graph& graph, const LoadOptions& options);
  using Executable::add_adapter;
  using Executable::run;
  StepOutcome run(const StepInput& input, StepOutputs outputs, std::span<int32_t> chosen) noexcept override;
  void copy_slots(std::span<const SlotCopy> copies) noexcept override;
  MemoryUse memory() const override;
  std::string fault() const override;
  std::string remark() const override { return remark_; }
  size_t page_bytes() const override { return cache_.page_bytes(); }
  void read_page(int32_t page, std::span<std::byte> to) const override { cache_.read_page(page, to); }
  void write_page(int32_t page, std::span<const std::byte> from) override { cache_.write_page(page, from); }
  void set_profiling(bool on) override { profiling_ = on; }
  std::vector<double> take_profile() override;
  std::shared_ptr<const PackedAdapter> pack_adapter(const Adapter& adapter) const override {
    return adapters_.pack(adapter);
  }
  void add_adapter(int32_t id, std::shared_ptr<const PackedAdapter> adapter) override;
  void remove_adapter(int32_t id) noexcept override { adapters_.remove(id); }
  void observe(NodeObserver observer) override { observer_ = std::move(observer); }
  // Times a token's step as one kernel and as many, and stays with what is faster.
  void choose_program();
  // Whether steps of few tokens run as one kernel.
  bool has_program() const { return program_ != nullptr; }

 private:
  // What a captured graph is good for.
  struct GraphKey {
    int tokens, rows, tiles;
    size_t end;
    bool adapters;
    bool program;        // the step's program runs it, however many tiles there are
    bool several_pages;  // its tiles have
    bool whole_tiles;    // attention's kernel takes heads as they are, where there is no program
    bool drawn;          // tokens are drawn; without a program only their kernels know
    auto operator<=>(const GraphKey&) const = default;
  };

  const Graph& graph() const override { return graph_; }
  const LoadOptions& options() const override { return options_; }
  DeviceBytes keep(std::span<const std::byte> bytes) const override;
  KvLayer kv_layer(const Node& node) override { return cache_.layer(node.integer("layer")); }
  int tiles_of(const TileShape& shape) override;
  int32_t* arrival_counters(int kv_heads) override;
  int partial_slots() const override { return partial_slots_; }
  const Fusions& fusions() const override { return fusions_; }
  const float* norm_weights(NodeId node) const override { return ops_[static_cast<size_t>(node)]->weights(); }

  void place_values(size_t workspace);
  void warm_up();
  void capture_decoding(bool adapters);
  void capture_kind(int tokens, int least_tiles, bool whole_tiles, bool adapters);
  void capture_program(int tokens);
  double time_token();
  int least_tile_rows() const;
  StepGraph capture(const StepContext& context, size_t end) const;
  size_t steps_for(StepOutputs outputs) const noexcept;
  StepContext context_of(int tokens, int rows) const noexcept;
  StepOutcome run_nodes(const StepContext& context, size_t end) noexcept;
  StepOutcome launch(const StepContext& context, size_t end) const noexcept;
  void launch_step(const StepContext& context, size_t end) const noexcept;
  void launch_nodes(const StepContext& context, size_t end) const noexcept;
  void launch_program(const StepContext& context, size_t end) const noexcept;
  bool program_runs(const StepContext& context, StepOutputs outputs) const noexcept;
  GraphKey key_of(const StepContext& context, int tiles, size_t end) const noexcept;
  void report(size_t node, const StepContext& context);
  void note_fault() noexcept;

  const Graph& graph_;
  LoadOptions options_;
  Fusions fusions_;
  int partial_slots_;
  Stream stream_;
  mutable DeviceArena weights_;
  KvMemory cache_;
  DeviceArena counters_;
  int32_t* arrived_ = nullptr;
  DeviceArena work_;  // activations and all that follows
  DeviceBytes workspace_;
  std::unique_ptr<Uploader> uploader_;  // while operators are made
  std::vector<TileShape> tile_shapes_;  // of the attention operators
  std::vector<std::unique_ptr<CudaOp>> ops_;
  std::vector<float*> values_;            // by value id; into work_
  std::unique_ptr<StepProgram> program_;  // where the graph is one for it
  std::string remark_;
  std::unique_ptr<StepTables> tables_;
  AdapterTable adapters_;
  ValueId hidden_ = kNone;  // the graph's input of activations, where it has one
  int64_t hidden_columns_ = 0;
  PinnedMemory hidden_staging_;
  StepResults results_;
  std::map<GraphKey, StepGraph> captured_;
  std::vector<double> profile_;
  bool profiling_ = false;
  cudaError_t fault_ = cudaSuccess;  // that no step outlives
  NodeObserver observer_;
};

}  // namespace edgewise::cuda
