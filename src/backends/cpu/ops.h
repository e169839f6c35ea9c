// What a node becomes when a graph is loaded: an object with everything resolved, run by all workers
// together.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <vector>

#include "backends/backend.h"
#include "backends/cpu/attention.h"
#include "backends/cpu/kernels.h"
#include "base/thread_pool.h"

namespace edgewise::cpu {

class AdapterSet;

// One step, as every operator sees it. Activations are float32, row-major.
struct StepContext {
  const StepInput* input = nullptr;
  int tokens = 0;
  int rows = 0;
  float* const* values = nullptr;  // by value id
  std::byte* workspace = nullptr;
  ThreadPool* pool = nullptr;
  const AdapterSet* adapters = nullptr;  // null when no row has one

  int count(bool of_rows) const { return of_rows ? rows : tokens; }
};

// What operators are built from.
struct BuildContext {
  const Graph* graph = nullptr;
  const LoadOptions* options = nullptr;
  Isa isa = Isa::kBaseline;
  int workers = 1;
  // KV pages of a layer; made by the executable.
  KvPages (*pages_of)(void* owner, const Node& node) = nullptr;
  void* owner = nullptr;
};

// How an operator deals its work to the workers. Two neighbours that both deal out rows need no barrier
// between them: each row stays with its worker.
enum class Sharing { kRows, kOther };

class CpuOp {
 public:
  virtual ~CpuOp() = default;
  virtual void run(const StepContext& context, int worker, int workers) noexcept = 0;
  // For a step of `count` rows; an operator that ever answers kRows returns true from may_share_rows().
  virtual Sharing sharing(int /*count*/, int /*workers*/) const { return Sharing::kOther; }
  virtual bool may_share_rows() const { return false; }
  // Scratch bytes it needs in StepContext::workspace.
  virtual size_t workspace() const { return 0; }
  // Bytes of constants it reads.
  virtual size_t weight_bytes() const { return 0; }
  bool of_rows = false;  // its rows are those that need logits
  size_t node = 0;       // its place in the graph
};

std::unique_ptr<CpuOp> make_op(const BuildContext& context, const Node& node);

// By family; each file says which operators.
std::unique_ptr<CpuOp> make_row_op(const BuildContext& context, const Node& node);
std::unique_ptr<CpuOp> make_linear_op(const BuildContext& context, const Node& node);
std::unique_ptr<CpuOp> make_attention_op(const BuildContext& context, const Node& node);
std::unique_ptr<CpuOp> make_moe_op(const BuildContext& context, const Node& node);

// Deals out `groups` times `panels` panels: visit(group, panels of it) for those that this worker gets. By all workers,
// between two barriers.
template <typename Visit>
void take_panels(ThreadPool& pool, int64_t groups, int64_t panels, Visit visit) noexcept {
  const int64_t all = groups * panels;
  for (Range left = pool.take(all, 2); left.begin < left.end; left = pool.take(all, 2)) {
    while (left.begin < left.end) {
      const int64_t begin = left.begin % panels;
      const Range share{begin, std::min(panels, begin + left.end - left.begin)};
      visit(left.begin / panels, share);
      left.begin += share.end - share.begin;
    }
  }
}

// A constant as float32; empty when the input is left out.
Tensor float_constant(const Graph& graph, const Node& node, size_t input);

// Which walk a Linear takes for N tokens: the node's attribute "tactics", as "1:direct,16:blocked".
class Tactics {
 public:
  explicit Tactics(const std::string& text);
  Walk walk(int tokens) const {
    Walk walk = Walk::kDirect;
    for (const Entry& entry : entries_) {
      if (tokens >= entry.tokens) walk = entry.walk;
    }
    return walk;
  }

 private:
  struct Entry {
    int tokens;
    Walk walk;
  };
  std::vector<Entry> entries_;  // by ascending tokens
};

}  // namespace edgewise::cpu
