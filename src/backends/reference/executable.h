// Runs a graph node by node with the reference kernels.
#pragma once

#include <limits>
#include <map>
#include <vector>

#include "backends/backend.h"
#include "backends/reference/kernels.h"

namespace edgewise::reference {

// One layer's pages in float32: [page][kv_head][64][head_dim]. Values are rounded to the cache's dtype on writing.
class LayerCache {
 public:
  LayerCache(int64_t pages, int64_t heads, int64_t head_dim, DType dtype);
  void store(int32_t page, int64_t slot, std::span<const float> k, std::span<const float> v);
  void copy(const SlotCopy& copy);
  std::span<const float> key(int32_t page, int64_t slot, int64_t head) const { return at(keys_, page, slot, head); }
  std::span<const float> value(int32_t page, int64_t slot, int64_t head) const { return at(values_, page, slot, head); }
  size_t bytes() const { return (keys_.size() + values_.size()) * sizeof(float); }
  // One page, its keys and then its values.
  size_t page_bytes() const { return 2 * page_floats() * sizeof(float); }
  void read(int32_t page, std::span<std::byte> to) const;
  void write(int32_t page, std::span<const std::byte> from);

 private:
  // A head's key or value as the cache gives it back.
  std::vector<float> rounded(std::span<const float> head) const;
  size_t page_floats() const { return static_cast<size_t>(heads_ * kPageTokens * head_dim_); }
  size_t offset(int32_t page, int64_t slot, int64_t head) const {
    return static_cast<size_t>(((page * heads_ + head) * kPageTokens + slot) * head_dim_);
  }
  std::span<const float> at(const std::vector<float>& pages, int32_t page, int64_t slot, int64_t head) const {
    return std::span(pages).subspan(offset(page, slot, head), static_cast<size_t>(head_dim_));
  }

  int64_t heads_;
  int64_t head_dim_;
  DType dtype_;
  std::vector<float> keys_;
  std::vector<float> values_;
};

struct BoundAdapter : PackedAdapter {
  explicit BoundAdapter(std::vector<std::vector<BoundLowRank>> bound) : nodes(std::move(bound)) {}
  std::vector<std::vector<BoundLowRank>> nodes;
};

class ReferenceExecutable final : public Executable {
 public:
  ReferenceExecutable(const Graph& graph, const LoadOptions& options);

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
    return std::make_shared<BoundAdapter>(bind_adapter(graph_, adapter));
  }
  using Executable::add_adapter;
  void add_adapter(int32_t id, std::shared_ptr<const PackedAdapter> adapter) override {
    adapters_[id] = std::static_pointer_cast<const BoundAdapter>(std::move(adapter));
  }
  void remove_adapter(int32_t id) noexcept override { adapters_.erase(id); }
  void observe(NodeObserver observer) override { observer_ = std::move(observer); }
  // Linears of more rows than `beyond_rows` get their activations rounded to `dtype`, kBF16 or kF16: what a device
  // computes that multiplies them so.
  void round_activations(DType dtype, int64_t beyond_rows) {
    activation_ = dtype;
    exact_rows_ = beyond_rows;
  }
  // So are queries of sequences of more than `beyond_rows` rows that are no tree, with the factors on their scores in
  // them: to bf16 for such caches, else to f16.
  void round_queries(int64_t beyond_rows) { exact_queries_ = beyond_rows; }

 private:
  void run_node(const Node& node, const StepInput& input);
  void run_linear(const Node& node, const StepInput& input);
  void add_low_rank(const Node& node, const StepInput& input);
  void run_moe(const Node& node);
  void run_attention(const Node& node, const StepInput& input);
  void run_rotary_table(const Node& node, const StepInput& input);
  void run_elementwise(const Node& node);
  Matrix matrix(ValueId id);
  Matrix make(ValueId id, const StepInput& input);
  std::vector<float> floats(const Node& node, size_t index) const;

  const Graph& graph_;
  LoadOptions options_;
  ThreadPool pool_;
  std::vector<std::vector<float>> values_;
  std::vector<int64_t> rows_;
  size_t tokens_ = 0;  // of the step under way
  std::map<int64_t, LayerCache> caches_;
  std::map<int32_t, std::shared_ptr<const BoundAdapter>> adapters_;  // by id
  NodeObserver observer_;
  DType activation_ = DType::kF32;
  int64_t exact_rows_ = 0;
  int64_t exact_queries_ = std::numeric_limits<int64_t>::max();
  bool profiling_ = false;
  std::vector<double> profile_;
};

}  // namespace edgewise::reference
