#include "backends/cuda/step_program.h"

#include <algorithm>

namespace edgewise::cuda {

void StepProgram::extend(const Graph& graph, std::vector<Lifetime>& lives) const {
  const auto last = static_cast<int>(nodes_.back());
  for (size_t i = 0; i < parts_.size(); ++i) {
    if (parts_[i] != Part::kBefore) continue;
    for (const ValueId id : graph.nodes()[i].outputs) {
      Lifetime& life = lives[static_cast<size_t>(id)];
      life.last = std::max(life.last, last);
    }
  }
}

void StepProgram::place(std::span<float* const> values) {
  const auto at = [&](ValueId id) { return values[static_cast<size_t>(id)]; };
  ops_.front().x = at(plain_);
  ops_.back().result = at(result_);
  for (const auto& [op, angles] : angles_) {
    for (HeadPath* path : {&ops_[op].q_path, &ops_[op].k_path}) {
      path->cos = at(angles.first);
      path->sin = at(angles.second);
    }
  }
  memory_.push_back(upload(std::as_bytes(std::span(ops_)), "operators of a step"));
  call_.ops = memory_.back().as<const StepOp>();
}

// Shared memory: what a step of so many tokens needs, and the ring in the rest.
void StepProgram::lay_out(StepCall& call) const {
  call.most_rows = std::max(call.tokens, call.rows);
  const auto round = [](size_t bytes) { return static_cast<int>((bytes + 127) / 128 * 128); };
  const size_t x = x_bytes(most_columns_, call.most_rows);
  const int queries = std::min(16, most_group_ * call.most_rows);
  const int scratch = round(std::max(x, attend_memory_bytes(queries, most_head_dim_, value_bytes_, call.page_turns)));
  const int sums = round(sizeof(float) * static_cast<size_t>(kStepWarps * call.most_sums * call.most_rows * 16));
  const int kept = round(sizeof(float) * static_cast<size_t>(call.most_rows * call.kept_columns));
  const auto linear_ops = std::ranges::count_if(ops_, [](const StepOp& op) { return !op.is_attention; });
  const int linears = round(sizeof(StepLinear) * static_cast<size_t>(linear_ops));
  const int counts = round(static_cast<size_t>(call.slot_count_bytes));
  const int stage = kStepWarps * call.stage_bytes;
  const int others = scratch + sums + kept + linears + counts;
  call.ring_depth = std::min(kMostRingDepth, (static_cast<int>(kMostStepShared) - others) / stage);
  call.scratch_at = call.ring_depth * stage;
  call.sums_at = call.scratch_at + scratch;
  call.kept_at = call.sums_at + sums;
  call.linears_at = call.kept_at + kept;
  call.slot_counts_at = call.linears_at + linears;
  call.shared_bytes = call.slot_counts_at + counts;
}

// Also for the largest of its steps.
bool StepProgram::fits() const {
  constexpr int kLeastDepth = 2;
  StepCall call = call_;
  call.tokens = call.rows = kMostDecodeTokens;
  call.page_turns = kMostPageTurns;
  lay_out(call);
  return call.ring_depth >= kLeastDepth;
}

void StepProgram::launch(const StepContext& context, size_t end) const noexcept {
  StepCall call = call_;
  call.tokens = context.tokens;
  call.rows = context.rows;
  while (call.op_count < static_cast<int>(ops_.size())) {
    const auto next = static_cast<size_t>(call.op_count);
    if (nodes_[next] >= end || (ops_[next].of_rows && context.rows == 0)) break;
    if (!ops_[next].is_attention) ++call.linear_count;
    ++call.op_count;
  }
  call.logits_rows = context.logits_rows;
  call.positions = context.positions;
  call.slots = context.slots;
  call.masks = context.masks;
  call.pages = context.pages;
  call.number = context.number;
  for (size_t i = 0; i < std::min(context.shapes, size_t{kMostStepTiles}); ++i)
    call.tiles[i] = {context.tiles[i].tiles, context.tiles[i].count};
  call.page_turns = context.several_pages ? kMostPageTurns : 1;
  lay_out(call);
  run_step(context.stream, call, device_info().multiprocessors);
}

size_t StepProgram::bytes() const {
  size_t bytes = 0;
  for (const DeviceMemory& memory : memory_) bytes += memory.size();
  return bytes;
}

}  // namespace edgewise::cuda
