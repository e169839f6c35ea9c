// kAttention: appends this step's keys and values to the cache, then attends.
#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "backends/cpu/ops.h"

namespace edgewise::cpu {
namespace {

// Some rows of one sequence with one group of heads that share keys and values.
struct Tile {
  const SequenceSlice* sequence = nullptr;
  int row = 0;  // counted in the sequence's share of the step
  int rows = 0;
  int kv_head = 0;
};

class AttentionOp final : public CpuOp {
 public:
  AttentionOp(const BuildContext& context, const Node& node);
  size_t workspace() const override { return (own_floats_ * scratch_.size() + split_floats_) * sizeof(float); }
  void run(const StepContext& context, int worker, int workers) noexcept override {
    append(context, worker, workers);
    context.pool->barrier();
    if (!worth_splitting(*context.input, workers)) return attend_whole(context, worker, workers);
    attend_ranges(context, worker, workers);
    context.pool->barrier();
    merge_ranges(context, worker, workers);
  }

 private:
  // A worker's lists for one tile.
  struct Scratch {
    std::vector<const float*> q;
    std::vector<int32_t> first;
    std::vector<int32_t> last;
  };

  void append(const StepContext& context, int worker, int workers) noexcept;
  bool worth_splitting(const StepInput& input, int workers) const noexcept;
  void attend_whole(const StepContext& context, int worker, int workers) noexcept;
  void attend_ranges(const StepContext& context, int worker, int workers) noexcept;
  void merge_ranges(const StepContext& context, int worker, int workers) noexcept;
  void attend_tree(const StepContext& context, const Tile& tile, AttendCall call, const SoftmaxState& all,
                   int worker) noexcept;
  TailPages gather_tail(const StepContext& context, const Tile& tile, int row, int worker) const noexcept;
  AttendCall call_of(const StepContext& context, const Tile& tile, int worker) noexcept;
  void finish(const StepContext& context, const Tile& tile, const SoftmaxState& state) noexcept;
  void merge(const SoftmaxState& from, const SoftmaxState& into, int queries) noexcept;
  void clear(const SoftmaxState& state, int queries) const noexcept;

  SoftmaxState state_at(float* memory, int queries) const { return {memory, memory + queries, memory + 2 * queries}; }
  float* own(const StepContext& context, int worker) const {
    return reinterpret_cast<float*>(context.workspace) + own_floats_ * static_cast<size_t>(worker);
  }
  float* slots(const StepContext& context) const { return own(context, static_cast<int>(scratch_.size())); }
  int first_position(int position) const { return window_ > 0 ? std::max(0, position - window_ + 1) : 0; }
  int first_range(const SequenceSlice& s, int row) const {
    return first_position(s.tree.empty() ? s.kv_length + row : s.tree_begin) / kRangeTokens;
  }
  int last_range(const SequenceSlice& s, int row) const { return (s.kv_length + row) / kRangeTokens; }
  size_t state_floats(int queries) const {
    return static_cast<size_t>(queries) * static_cast<size_t>(layout_.padded_dim + 2);
  }

  const AttentionKernels& kernels_;
  ValueId q_, k_, v_, out_;
  int q_heads_;
  int group_;
  float scale_;
  float softcap_;
  int window_;
  int tile_rows_;
  KvLayout layout_;
  KvPages pages_;
  std::vector<Scratch> scratch_;  // by worker
  size_t own_floats_ = 0;         // scores, a range's state, a tile's state and a tail
  size_t tail_offset_ = 0;        // of the tail among them
  size_t split_floats_ = 0;       // states of all ranges of a decode step
};

AttentionOp::AttentionOp(const BuildContext& context, const Node& node)
    : kernels_(attention_kernels(context.isa)),
      q_(node.inputs[0]),
      k_(node.inputs[1]),
      v_(node.inputs[2]),
      out_(node.outputs[0]),
      q_heads_(static_cast<int>(node.integer("q_heads"))),
      group_(q_heads_ / static_cast<int>(node.integer("kv_heads"))),
      scale_(static_cast<float>(node.number("scale"))),
      softcap_(static_cast<float>(node.number("softcap", 0.0))),
      window_(static_cast<int>(node.integer("window", 0))),
      tile_rows_(std::max(1, kMaxQueries / group_)),
      layout_(KvLayout::make(context.options->kv_dtype, static_cast<int>(node.integer("kv_heads")),
                             static_cast<int>(node.integer("head_dim")))),
      pages_(context.pages_of(context.owner, node)) {
  const int queries = tile_rows_ * group_;
  const auto count = static_cast<size_t>(queries);
  scratch_.assign(static_cast<size_t>(context.workers),
                  {std::vector<const float*>(count), std::vector<int32_t>(count), std::vector<int32_t>(count)});
  own_floats_ = (count * kPageTokens + 2 * state_floats(queries) + 31) / 16 * 16;
  tail_offset_ = own_floats_;
  own_floats_ += kTailPages * (layout_.key_head_bytes() + layout_.value_head_bytes()) / sizeof(float);
  // Each sequence may begin and end within a range of its own.
  const int ranges = context.options->kv_pages / (kRangeTokens / kPageTokens) + 2 * context.options->max_sequences;
  split_floats_ = static_cast<size_t>(ranges) * state_floats(q_heads_);
}

void AttentionOp::append(const StepContext& context, int worker, int workers) noexcept {
  const int64_t dim = layout_.head_dim;
  const int64_t heads = layout_.kv_heads;
  const Range share = share_of(context.tokens * heads, worker, workers);
  for (const SequenceSlice& sequence : context.input->sequences) {
    const int64_t first = sequence.first_token * heads;
    const int64_t begin = std::max(share.begin, first);
    const int64_t end = std::min(share.end, first + sequence.token_count * heads);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t row = unit / heads;
      const int slot = sequence.kv_length + static_cast<int>(row) - sequence.first_token;
      const int page = sequence.page_table[static_cast<size_t>(slot / kPageTokens)];
      kernels_.append(layout_, pages_, page, slot % kPageTokens, static_cast<int>(unit % heads),
                      context.values[k_] + unit * dim, context.values[v_] + unit * dim);
    }
  }
}

// Splitting a history over workers is for few rows; it changes who computes, not what.
bool AttentionOp::worth_splitting(const StepInput& input, int workers) const noexcept {
  if (workers == 1) return false;
  int64_t tiles = 0;
  size_t floats = 0;
  int longest = 0;
  for (const SequenceSlice& sequence : input.sequences) {
    if (sequence.token_count > tile_rows_ || !sequence.tree.empty()) return false;
    if (sequence.token_count == 0) continue;
    const int ranges = last_range(sequence, sequence.token_count - 1) - first_range(sequence, 0) + 1;
    tiles += layout_.kv_heads;
    longest = std::max(longest, ranges);
    floats += static_cast<size_t>(ranges) * state_floats(sequence.token_count * q_heads_);
  }
  return longest > 1 && tiles < int64_t{8} * workers && floats <= split_floats_;
}

AttendCall AttentionOp::call_of(const StepContext& context, const Tile& tile, int worker) noexcept {
  Scratch& scratch = scratch_[static_cast<size_t>(worker)];
  const int64_t dim = layout_.head_dim;
  for (int r = 0; r < tile.rows; ++r) {
    const int64_t row = tile.sequence->first_token + tile.row + r;
    const int position = tile.sequence->position(tile.row + r);
    for (int g = 0; g < group_; ++g) {
      const auto query = static_cast<size_t>(r * group_ + g);
      scratch.q[query] = context.values[q_] + (row * q_heads_ + tile.kv_head * group_ + g) * dim;
      scratch.first[query] = first_position(position);
      scratch.last[query] = position;
    }
  }
  AttendCall call;
  call.layout = &layout_;
  call.pages = pages_;
  call.page_table = tile.sequence->page_table;
  call.kv_head = tile.kv_head;
  call.queries = tile.rows * group_;
  call.q = scratch.q.data();
  call.first = scratch.first.data();
  call.last = scratch.last.data();
  call.scale = scale_;
  call.softcap = softcap_;
  call.scores = own(context, worker);
  call.state = state_at(call.scores + call.queries * kPageTokens, call.queries);
  return call;
}

void AttentionOp::clear(const SoftmaxState& state, int queries) const noexcept {
  std::fill_n(state.largest, queries, -std::numeric_limits<float>::infinity());
  std::fill_n(state.sum, queries, 0.0f);
  std::fill_n(state.values, queries * layout_.padded_dim, 0.0f);
}

void AttentionOp::merge(const SoftmaxState& from, const SoftmaxState& into, int queries) noexcept {
  for (int i = 0; i < queries; ++i) {
    kernels_.merge(from.largest[i], from.sum[i], from.values + i * layout_.padded_dim, layout_.padded_dim,
                   into.largest[i], into.sum[i], into.values + i * layout_.padded_dim);
  }
}

void AttentionOp::finish(const StepContext& context, const Tile& tile, const SoftmaxState& state) noexcept {
  const int64_t dim = layout_.head_dim;
  for (int r = 0; r < tile.rows; ++r) {
    const int64_t row = tile.sequence->first_token + tile.row + r;
    for (int g = 0; g < group_; ++g) {
      const int query = r * group_ + g;
      float* out = context.values[out_] + (row * q_heads_ + tile.kv_head * group_ + g) * dim;
      const float* values = state.values + query * layout_.padded_dim;
      const float sum = state.sum[query];
      for (int64_t i = 0; i < dim; ++i) out[i] = values[i] / sum;
    }
  }
}

void AttentionOp::attend_whole(const StepContext& context, int worker, int workers) noexcept {
  int unit = 0;
  for (const SequenceSlice& sequence : context.input->sequences) {
    for (int row = 0; row < sequence.token_count; row += tile_rows_) {
      for (int head = 0; head < layout_.kv_heads; ++head, ++unit) {
        if (unit % workers != worker) continue;
        const Tile tile{&sequence, row, std::min(tile_rows_, sequence.token_count - row), head};
        AttendCall call = call_of(context, tile, worker);
        const SoftmaxState all = state_at(call.state.largest + state_floats(call.queries), call.queries);
        clear(all, call.queries);
        const bool tree = !sequence.tree.empty();
        const int last = tree ? sequence.tree_begin / kRangeTokens - 1 : last_range(sequence, row + tile.rows - 1);
        for (call.range = first_range(sequence, row); call.range <= last; ++call.range) {
          kernels_.attend(call);
          merge(call.state, all, call.queries);
        }
        if (tree) attend_tree(context, tile, call, all, worker);
        finish(context, tile, all);
      }
    }
  }
}

// The ranges in which the rows of a tree see different tokens, row by row.
void AttentionOp::attend_tree(const StepContext& context, const Tile& tile, AttendCall call, const SoftmaxState& all,
                              int worker) noexcept {
  const int first = call.range;
  call.queries = group_;
  for (int r = 0; r < tile.rows; ++r) {
    call.tail = gather_tail(context, tile, r, worker);
    const int at = r * group_;
    const SoftmaxState row{all.largest + at, all.sum + at, all.values + at * layout_.padded_dim};
    const int last = tile.sequence->position(tile.row + r) / kRangeTokens;
    for (call.range = first; call.range <= last; ++call.range) {
      kernels_.attend(call);
      merge(call.state, row, group_);
    }
    call.q += group_;
    call.first += group_;
    call.last += group_;
  }
}

// The page where the tree begins and the one behind it, with the row's ancestors where a chain of them would lie: so a
// row of a tree rounds as one of a chain does.
TailPages AttentionOp::gather_tail(const StepContext& context, const Tile& tile, int row, int worker) const noexcept {
  const SequenceSlice& sequence = *tile.sequence;
  const auto page_of = [&](int slot) {
    return pages_.head(layout_, sequence.page_table[static_cast<size_t>(slot / kPageTokens)], tile.kv_head);
  };
  TailPages tail;
  tail.first_page = sequence.tree_begin / kPageTokens;
  auto* memory = reinterpret_cast<std::byte*>(own(context, worker) + tail_offset_);
  for (HeadPage& page : tail.pages) {
    page = {memory, memory + layout_.key_head_bytes()};
    memory += layout_.key_head_bytes() + layout_.value_head_bytes();
  }
  const HeadPage start = page_of(sequence.tree_begin);
  std::memcpy(tail.pages[0].keys, start.keys, layout_.key_head_bytes());
  std::memcpy(tail.pages[0].values, start.values, layout_.value_head_bytes());
  int position = sequence.tree_begin;
  for (uint64_t mask = sequence.tree[static_cast<size_t>(tile.row + row)]; mask != 0; mask &= mask - 1, ++position) {
    const int slot = sequence.tree_begin + std::countr_zero(mask);
    const int page = position / kPageTokens - tail.first_page;
    if (slot == position && page == 0) continue;  // came with the page
    copy_slot(layout_, page_of(slot), slot % kPageTokens, tail.pages[static_cast<size_t>(page)],
              position % kPageTokens);
  }
  return tail;
}

void AttentionOp::attend_ranges(const StepContext& context, int worker, int workers) noexcept {
  int unit = 0;
  float* slot = slots(context);
  for (const SequenceSlice& sequence : context.input->sequences) {
    if (sequence.token_count == 0) continue;
    for (int head = 0; head < layout_.kv_heads; ++head) {
      const Tile tile{&sequence, 0, sequence.token_count, head};
      AttendCall call = call_of(context, tile, worker);
      const int last = last_range(sequence, tile.rows - 1);
      for (call.range = first_range(sequence, 0); call.range <= last; ++call.range, ++unit) {
        call.state = state_at(slot, call.queries);
        slot += state_floats(call.queries);
        if (unit % workers == worker) kernels_.attend(call);
      }
    }
  }
}

void AttentionOp::merge_ranges(const StepContext& context, int worker, int workers) noexcept {
  int unit = 0;
  float* slot = slots(context);
  for (const SequenceSlice& sequence : context.input->sequences) {
    if (sequence.token_count == 0) continue;
    const int queries = sequence.token_count * group_;
    const int ranges = last_range(sequence, sequence.token_count - 1) - first_range(sequence, 0) + 1;
    for (int head = 0; head < layout_.kv_heads; ++head, ++unit) {
      float* first = slot;
      slot += static_cast<size_t>(ranges) * state_floats(queries);
      if (unit % workers != worker) continue;
      const SoftmaxState all = state_at(own(context, worker), queries);
      clear(all, queries);
      for (int i = 0; i < ranges; ++i, first += state_floats(queries)) merge(state_at(first, queries), all, queries);
      finish(context, {&sequence, 0, sequence.token_count, head}, all);
    }
  }
}

}  // namespace

std::unique_ptr<CpuOp> make_attention_op(const BuildContext& context, const Node& node) {
  return std::make_unique<AttentionOp>(context, node);
}

}  // namespace edgewise::cpu
