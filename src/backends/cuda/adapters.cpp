#include "backends/cuda/adapters.h"

#include <algorithm>

namespace edgewise::cuda {

AdapterTable::AdapterTable(const Graph& graph, const LoadOptions& options)
    : graph_(graph),
      most_tokens_(options.max_tokens),
      most_rows_(options.max_rows),
      outputs_(graph.nodes().size()),
      rows_host_(static_cast<size_t>(options.max_tokens + options.max_rows) * 4, "pinned memory for adapters") {
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const Node& node = graph.nodes()[i];
    if (node.op != Op::kLinear) continue;
    for (const ValueId id : node.outputs) outputs_[i].push_back({id, output_count_++});
  }
}

std::shared_ptr<const DeviceAdapter> AdapterTable::pack(const Adapter& adapter) const {
  const auto packed = std::make_shared<DeviceAdapter>();
  const auto bound = bind_adapter(graph_, adapter);
  const auto put = [&](const Tensor& matrix) {
    const auto values = matrix.to_floats();
    packed->matrices.push_back(upload(std::as_bytes(std::span(values)), "an adapter's matrices"));
    packed->bytes += packed->matrices.back().size();
    return packed->matrices.back().as<const float>();
  };
  for (size_t node = 0; node < bound.size(); ++node) {
    for (const BoundLowRank& part : bound[node]) {
      LowRankPart weights;
      weights.rank = static_cast<int>(part.weights.a.dim(0));
      weights.scale = part.weights.scale;
      weights.a = put(part.weights.a);
      weights.b = put(part.weights.b);
      packed->rank = std::max(packed->rank, weights.rank);
      packed->parts.push_back({node, part.output, weights});
    }
  }
  return packed;
}

void AdapterTable::make_room(int slots, int rank) {
  constexpr int kFirstSlots = 16;
  constexpr int kFirstRank = 64;
  rank_ = std::max({rank, rank_, kFirstRank});
  hidden_ = DeviceMemory(static_cast<size_t>(std::max(most_tokens_, most_rows_) * rank_) * sizeof(float),
                         "products of adapters");
  slots_ = std::max({slots, 2 * slots_, kFirstSlots});
  table_.assign(output_count_ * static_cast<size_t>(slots_), {});
  device_table_ = DeviceMemory(table_.size() * sizeof(LowRankPart), "adapters");
  for (const auto& [id, loaded] : loaded_) write_slot(loaded.slot, loaded.adapter.get());
}

// An adapter's entries of the table, or none.
void AdapterTable::write_slot(int slot, const DeviceAdapter* adapter) noexcept {
  const auto stride = static_cast<size_t>(slots_);
  for (size_t i = static_cast<size_t>(slot); i < table_.size(); i += stride) table_[i] = {};
  if (adapter != nullptr) {
    for (const DeviceAdapter::Part& part : adapter->parts)
      table_[outputs_[part.node][part.output].first * stride + static_cast<size_t>(slot)] = part.weights;
  }
  cudaMemcpy(device_table_.data(), table_.data(), device_table_.size(), cudaMemcpyHostToDevice);
}

bool AdapterTable::add(int32_t id, std::shared_ptr<const DeviceAdapter> adapter) {
  remove(id);
  int slot = 0;
  const auto taken = [&](const auto& entry) { return entry.second.slot == slot; };
  while (std::ranges::any_of(loaded_, taken)) ++slot;
  const bool fits = slot < slots_ && adapter->rank <= rank_;
  if (!fits) make_room(slot + 1, adapter->rank);
  write_slot(slot, adapter.get());
  loaded_[id] = {slot, std::move(adapter)};
  return fits;
}

void AdapterTable::remove(int32_t id) noexcept {
  const auto found = loaded_.find(id);
  if (found == loaded_.end()) return;
  write_slot(found->second.slot, nullptr);
  loaded_.erase(found);
}

bool AdapterTable::begin_step(const StepInput& input, cudaStream_t stream) noexcept {
  auto* tokens = rows_host_.as<int32_t>();
  any_ = false;
  for (const SequenceSlice& sequence : input.sequences) {
    int slot = -1;
    if (sequence.adapter >= 0) {
      const auto found = loaded_.find(sequence.adapter);
      if (found == loaded_.end()) return false;
      slot = found->second.slot;
      any_ = true;
    }
    std::fill_n(tokens + sequence.first_token, sequence.token_count, slot);
  }
  if (!any_) return true;
  for (size_t i = 0; i < input.logits_rows.size(); ++i)
    tokens[static_cast<size_t>(most_tokens_) + i] = tokens[input.logits_rows[i]];
  return cudaMemcpyAsync(rows_.data(), rows_host_.data(), rows_.size(), cudaMemcpyHostToDevice, stream) == cudaSuccess;
}

void AdapterTable::launch(size_t node, const StepContext& context, bool of_rows) const noexcept {
  const int32_t* rows = rows_.as<const int32_t>() + (of_rows ? most_tokens_ : 0);
  const ValueId x = graph_.nodes()[node].inputs[0];
  for (const Output& output : outputs_[node]) {
    const LowRankPart* parts = device_table_.as<const LowRankPart>() + output.first * static_cast<size_t>(slots_);
    add_low_rank(context.stream, parts, rows, context.values[x], context.count(of_rows),
                 static_cast<int>(graph_.value(x).shape[1]), static_cast<int>(graph_.value(output.id).shape[1]), rank_,
                 hidden_.as<float>(), context.values[output.id]);
  }
}

size_t AdapterTable::bytes() const {
  size_t bytes = hidden_.size();
  for (const auto& [id, loaded] : loaded_) bytes += loaded.adapter->bytes;
  return bytes;
}

}  // namespace edgewise::cuda
