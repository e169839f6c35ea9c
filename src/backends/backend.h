// What the compiler, the runtime and the quantizer ask of a backend. Only src/backends/<name>/ knows more.
#pragma once

#include <bit>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backends/draw.h"
#include "base/tensor.h"
#include "graph/graph.h"
#include "graph/low_rank.h"

namespace edgewise {

class ThreadPool;

inline constexpr int kPageTokens = 64;      // tokens in a page of the KV cache
inline constexpr int kMostTreeTokens = 64;  // bits of a row's mask

// One sequence's share of a step: rows [first_token, first_token + token_count), whose keys and values go to the cache
// slots from kv_length on.
//
// Rows are a chain, each behind the one before it, unless `tree` says otherwise: then a row sees the slots before
// tree_begin, which is at most kv_length, and slot tree_begin + b for each bit b of its mask, its own among them. Those
// are its ancestors in ascending order, and the row computes bit for bit what it would at the end of the chain of them.
struct SequenceSlice {
  int32_t first_token = 0;
  int32_t token_count = 0;
  int32_t kv_length = 0;                // tokens in the cache before this step
  int32_t context_length = 0;           // tokens known of the sequence, prompt chunks still to come included
  std::span<const int32_t> page_table;  // covers kv_length + token_count tokens
  int32_t adapter = -1;                 // one that add_adapter() made known
  int32_t tree_begin = 0;
  std::span<const uint64_t> tree = {};  // [token_count] masks, or empty

  // How many tokens a row has before it; also its entry in StepInput::positions.
  int32_t position(int32_t row) const {
    return tree.empty() ? kv_length + row : tree_begin + std::popcount(tree[static_cast<size_t>(row)]) - 1;
  }
};

// Masks that somebody else makes while a step runs.
class MaskMaker {
 public:
  virtual ~MaskMaker() = default;
  // Until RowDraw::allowed of the step's rows can be read.
  virtual void wait() noexcept = 0;
};

struct StepInput {
  std::span<const int32_t> tokens;     // [N]
  std::span<const int32_t> positions;  // [N]
  std::span<const float> hidden;       // [N, columns], for graphs with the input "hidden_states"
  std::span<const SequenceSlice> sequences;
  std::span<const int32_t> logits_rows;  // [R], ascending
  std::span<const RowDraw> draws = {};   // [R], or empty where `chosen` has no kDraw
  MaskMaker* masks = nullptr;            // asked where a draw has a mask

  // N; `columns` of the hidden states, 0 when the graph starts from tokens.
  size_t count(int64_t columns) const {
    return columns > 0 ? hidden.size() / static_cast<size_t>(columns) : tokens.size();
  }
};

// A token's keys and values in all layers, from one slot of the cache to another one.
struct SlotCopy {
  int32_t from_page = 0;
  int32_t from_slot = 0;
  int32_t to_page = 0;
  int32_t to_slot = 0;
};

enum class StepOutcome { kDone, kTooLarge, kOutOfMemory, kDeviceFault };
std::string_view outcome_name(StepOutcome outcome);

// Capacities fixed when an engine is loaded.
struct LoadOptions {
  int max_tokens = 512;   // N of the largest step
  int max_sequences = 1;  // S
  int max_rows = 1;       // R
  int kv_pages = 32;      // of kPageTokens tokens, shared by all sequences
  DType kv_dtype = DType::kBF16;
  int threads = 0;  // 0: as many as the process may use
  // Workers shared with other executables, of which one runs at a time; null: own ones.
  std::shared_ptr<ThreadPool> pool = nullptr;
};

struct MemoryUse {
  size_t weights = 0;  // bytes, as mapped or uploaded
  size_t kv_cache = 0;
  size_t activations = 0;  // the arena
  size_t workspace = 0;    // scratch beside the arena
};

// Called after a node ran, with its outputs as float32 [rows, columns]. For `check`, calibration and debugging.
using NodeObserver = std::function<void(const Node& node, std::span<const Tensor> outputs)>;

// Where a step's results go: one buffer for each output of the graph, in their order, float32 [rows, columns]. An
// output whose buffer is empty or missing is not written.
using StepOutputs = std::span<const std::span<float>>;

// Entries of `chosen` on the way into Executable::run(), which puts the index of the row's largest logit in the place
// of kPickBest, as argmax() in best_rows.h has it, and in that of kDraw what StepInput::draws asks for, as Draw has it.
inline constexpr int32_t kPickBest = -1;
inline constexpr int32_t kKeepLogits = -2;
inline constexpr int32_t kDraw = -3;

// An adapter as an executable keeps it; only executables of the same engine take it.
class PackedAdapter {
 public:
  virtual ~PackedAdapter() = default;
};

// A loaded engine. Holds the KV pages; which page belongs to whom is the runtime's business.
class Executable {
 public:
  virtual ~Executable() = default;
  // Runs one step; the first output are the logits [R, vocabulary]. Allocates nothing. `chosen` is [R] or empty: of
  // rows that ask for a token the logits need not be brought to the output, whose contents there are anything. Where
  // logits lie in the host's memory anyway, or for want of room, what `draws` asks for may be left to whoever asked:
  // then the entry is below 0, and the logits are there.
  virtual StepOutcome run(const StepInput& input, StepOutputs outputs, std::span<int32_t> chosen) noexcept = 0;
  StepOutcome run(const StepInput& input, StepOutputs outputs) noexcept { return run(input, outputs, {}); }
  StepOutcome run(const StepInput& input, std::span<float> first) noexcept {
    return run(input, StepOutputs(&first, 1), {});
  }
  // Copies exactly, in order.
  virtual void copy_slots(std::span<const SlotCopy> copies) noexcept = 0;
  virtual MemoryUse memory() const = 0;
  // Why no step will ever run again, as after a fault of the device; "" while steps run.
  virtual std::string fault() const { return ""; }
  // How it came to run steps as it does, for people; "" where nothing was decided when it was loaded.
  virtual std::string remark() const { return ""; }
  // One page of the KV cache, the keys and values of all layers, as [page_bytes()] that only an executable of the same
  // engine reads. Equal bytes give equal results. Between steps only.
  virtual size_t page_bytes() const = 0;
  virtual void read_page(int32_t page, std::span<std::byte> to) const = 0;
  virtual void write_page(int32_t page, std::span<const std::byte> from) = 0;
  // Seconds spent in each node since the last call, in the order of the graph; empty unless profiling is on.
  virtual void set_profiling(bool on) = 0;
  virtual std::vector<double> take_profile() = 0;
  // From any thread, also while a step runs. Throws as bind_adapter() does.
  virtual std::shared_ptr<const PackedAdapter> pack_adapter(const Adapter& adapter) const = 0;
  // Between steps; rows of sequences with this `id` get it from then on.
  virtual void add_adapter(int32_t id, std::shared_ptr<const PackedAdapter> adapter) = 0;
  void add_adapter(int32_t id, const Adapter& adapter) { add_adapter(id, pack_adapter(adapter)); }
  virtual void remove_adapter(int32_t id) noexcept = 0;
  // An empty function turns observation off. Observed steps are slow and may allocate.
  virtual void observe(NodeObserver observer) = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;
  // Name of the weight layout; every machine of a class reads it. Part of the engine's header.
  virtual std::string_view layout() const = 0;
  // Nothing when the backend runs the node; else what it lacks, for an error that names the node.
  virtual std::optional<std::string> why_unsupported(const Graph& graph, const Node& node) const = 0;
  // Replaces the node's constants by packed ones, loaded lazily, one at a time.
  virtual void pack(Graph& graph, NodeId node) const = 0;
  // Kernels that can run the node, best guess first; empty when there is no choice.
  virtual std::vector<std::string> kernels(const Graph& graph, const Node& node) const = 0;
  // Median seconds of a packed node with the kernel at N = tokens on this machine.
  virtual double time_kernel(const Graph& graph, const Node& node, const std::string& kernel, int tokens) const = 0;
  // Bytes that the KV cache may take here, now, beside all else that an executable loaded this way needs.
  virtual size_t cache_room(const Graph& graph, const LoadOptions& options) const;
  // Tokens of prompts that one step had best take at most.
  virtual int prefill_chunk() const { return 256; }
  // Bytes a second that its memory gives when it is read from end to end, measured now; 0: what the host's gives.
  virtual double read_bandwidth() const { return 0; }
  // `graph` is packed and outlives the result, which reads its constants where they lie.
  virtual std::unique_ptr<Executable> load(const Graph& graph, const LoadOptions& options) const = 0;
};

// Backends register themselves; the highest priority is the default.
void register_backend(std::unique_ptr<Backend> backend, int priority);
// Throws Error(kUsage) listing the backends there are.
const Backend& find_backend(std::string_view name);
std::vector<std::string> backend_names();

}  // namespace edgewise
