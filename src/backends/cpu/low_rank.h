// Low-rank adapters beside packed weights: y += scale * B (A x), on the rows of the sequences that ask for one.
//
// A and B are matrices like all others, so the kernels of a Linear multiply them and a row's result depends on neither
// its company nor the number of threads.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "backends/backend.h"
#include "backends/cpu/packed_matrix.h"

namespace edgewise::cpu {

// What an adapter adds to one Linear: its As, one below the other, and a B for some of its outputs.
struct LowRankNode {
  struct Output {
    size_t output = 0;
    int64_t first = 0;  // B multiplies A x from this element on
    PackedMatrix b;     // [n, r]
  };
  PackedMatrix a;  // [sum of ranks, K]
  std::vector<Output> outputs;
};

struct LoadedAdapter : PackedAdapter {
  std::vector<std::optional<LowRankNode>> nodes;
  int64_t widest = 0;  // sum of ranks of a node
  size_t bytes = 0;
};

// Rows [first, first + count) of a step, of tokens or of those that need logits.
struct AdaptedRows {
  int first = 0;
  int count = 0;
  const LoadedAdapter* adapter = nullptr;

  Range among(Range rows) const {
    return {std::max<int64_t>(rows.begin, first), std::min<int64_t>(rows.end, first + count)};
  }
  const LowRankNode* at(size_t node) const {
    const auto& found = adapter->nodes[node];
    return found ? &*found : nullptr;
  }
};

// The adapters of an executable, and which rows of the step under way have one.
class AdapterSet {
 public:
  AdapterSet(const Graph& graph, const LoadOptions& options, Isa isa, int workers);

  std::shared_ptr<const LoadedAdapter> pack(const Adapter& adapter) const;
  void add(int32_t id, std::shared_ptr<const LoadedAdapter> adapter);
  void remove(int32_t id) noexcept;
  // False when a sequence names an adapter that is not here.
  bool begin_step(const StepInput& input) noexcept;

  // Whether some row of the step has an adapter, and one that changes this node.
  bool any() const noexcept { return !tokens_.empty(); }
  bool touches(size_t node, bool of_rows) const noexcept;
  // A x for the adapted rows among `rows` of x, into the slot of their number, the first row's being `slot`. Then B
  // times that onto those of `tokens` and `panels` of an output.
  void multiply_a(size_t node, bool of_rows, const float* x, int64_t x_stride, Range rows, int64_t slot) const noexcept;
  void add_b(size_t node, bool of_rows, size_t output, Range tokens, Range panels, int64_t slot, float* out,
             int64_t out_stride) const noexcept;
  size_t bytes() const { return bytes_; }

 private:
  std::span<const AdaptedRows> rows(bool of_rows) const { return of_rows ? logits_rows_ : tokens_; }
  float* hidden(int64_t slot) const { return hidden_.get() + slot * stride_; }
  std::optional<LowRankNode> pack_node(const std::vector<BoundLowRank>& parts) const;
  void add_row(std::vector<AdaptedRows>& rows, int first, int count, int32_t id) noexcept;

  const Graph& graph_;
  Isa isa_;
  int64_t most_rows_;
  std::map<int32_t, std::shared_ptr<const LoadedAdapter>> adapters_;
  std::vector<AdaptedRows> tokens_;
  std::vector<AdaptedRows> logits_rows_;
  std::unique_ptr<float[]> hidden_;  // [slots][stride]: A x, of a row or of a worker; for the widest one so far
  int64_t stride_ = 0;
  size_t bytes_ = 0;  // of packed matrices
};

}  // namespace edgewise::cpu
