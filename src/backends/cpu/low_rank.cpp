#include "backends/cpu/low_rank.h"

#include <algorithm>

namespace edgewise::cpu {
namespace {

// From this many rows on, decoding an A into the cache pays.
constexpr int64_t kBlockedRows = 16;

PackedMatrix pack_matrix_of(const Tensor& weight, float scale, Isa isa) {
  SourceTypes types;
  types.weight = weight.dtype();
  types.n = weight.dim(0);
  types.k = weight.dim(1);
  types.global_scale = scale;
  PackedMatrix matrix;
  matrix.format = choose_format(types);
  matrix.weights = Tensor::zeros(DType::kU8, {static_cast<int64_t>(matrix.format.bytes())});
  SourceMatrix source;
  source.weight = weight;
  pack_matrix(matrix.format, source, matrix.weights.mutable_bytes());
  for (const Walk walk : {Walk::kDirect, Walk::kBlocked}) {
    matrix.kernels[static_cast<size_t>(walk)] = linear_kernel(isa, matrix.format.encoding, walk);
  }
  return matrix;
}

// The As of all parts, one below the other; float32 where their types differ.
Tensor stack(const std::vector<BoundLowRank>& parts) {
  DType dtype = parts[0].weights.a.dtype();
  int64_t rank = 0;
  for (const BoundLowRank& part : parts) {
    if (part.weights.a.dtype() != dtype) dtype = DType::kF32;
    rank += part.weights.a.dim(0);
  }
  Tensor result = Tensor::zeros(dtype, {rank, parts[0].weights.a.dim(1)});
  auto out = result.mutable_bytes();
  for (const BoundLowRank& part : parts) {
    const Tensor a = part.weights.a.cast(dtype);
    std::ranges::copy(a.bytes(), out.begin());
    out = out.subspan(a.bytes().size());
  }
  return result;
}

}  // namespace

AdapterSet::AdapterSet(const Graph& graph, const LoadOptions& options, Isa isa, int workers)
    : graph_(graph), isa_(isa), most_rows_(std::max({options.max_tokens, options.max_rows, workers})) {
  tokens_.reserve(static_cast<size_t>(options.max_sequences));
  logits_rows_.reserve(static_cast<size_t>(options.max_rows));
}

std::optional<LowRankNode> AdapterSet::pack_node(const std::vector<BoundLowRank>& parts) const {
  if (parts.empty()) return std::nullopt;
  LowRankNode node;
  node.a = pack_matrix_of(stack(parts), 1, isa_);
  int64_t first = 0;
  for (const BoundLowRank& part : parts) {
    node.outputs.push_back({part.output, first, pack_matrix_of(part.weights.b, part.weights.scale, isa_)});
    first += part.weights.a.dim(0);
  }
  return node;
}

std::shared_ptr<const LoadedAdapter> AdapterSet::pack(const Adapter& adapter) const {
  const auto loaded = std::make_shared<LoadedAdapter>();
  for (const auto& parts : bind_adapter(graph_, adapter)) {
    const auto& node = loaded->nodes.emplace_back(pack_node(parts));
    if (!node) continue;
    loaded->widest = std::max(loaded->widest, node->a.format.n);
    loaded->bytes += node->a.weights.bytes().size();
    for (const LowRankNode::Output& output : node->outputs) loaded->bytes += output.b.weights.bytes().size();
  }
  return loaded;
}

void AdapterSet::add(int32_t id, std::shared_ptr<const LoadedAdapter> adapter) {
  const int64_t stride = (adapter->widest + kPanel - 1) / kPanel * kPanel;
  if (stride > stride_) {
    hidden_ = std::make_unique<float[]>(static_cast<size_t>(most_rows_ * stride));
    stride_ = stride;
  }
  remove(id);
  bytes_ += adapter->bytes;
  adapters_[id] = std::move(adapter);
}

void AdapterSet::remove(int32_t id) noexcept {
  const auto found = adapters_.find(id);
  if (found == adapters_.end()) return;
  bytes_ -= found->second->bytes;
  adapters_.erase(found);
}

void AdapterSet::add_row(std::vector<AdaptedRows>& rows, int first, int count, int32_t id) noexcept {
  const LoadedAdapter* adapter = adapters_.find(id)->second.get();
  if (!rows.empty() && rows.back().adapter == adapter && rows.back().first + rows.back().count == first) {
    rows.back().count += count;
  } else {
    rows.push_back({first, count, adapter});
  }
}

bool AdapterSet::begin_step(const StepInput& input) noexcept {
  tokens_.clear();
  logits_rows_.clear();
  size_t row = 0;
  for (const SequenceSlice& sequence : input.sequences) {
    const int end = sequence.first_token + sequence.token_count;
    const bool adapted = sequence.adapter >= 0;
    if (adapted && !adapters_.contains(sequence.adapter)) return false;
    if (adapted) add_row(tokens_, sequence.first_token, sequence.token_count, sequence.adapter);
    for (; row < input.logits_rows.size() && input.logits_rows[row] < end; ++row) {
      if (adapted) add_row(logits_rows_, static_cast<int>(row), 1, sequence.adapter);
    }
  }
  return true;
}

bool AdapterSet::touches(size_t node, bool of_rows) const noexcept {
  return std::ranges::any_of(rows(of_rows), [&](const AdaptedRows& adapted) { return adapted.at(node) != nullptr; });
}

void AdapterSet::multiply_a(size_t node, bool of_rows, const float* x, int64_t x_stride, Range rows,
                            int64_t slot) const noexcept {
  for (const AdaptedRows& adapted : this->rows(of_rows)) {
    const LowRankNode* weights = adapted.at(node);
    const Range own = adapted.among(rows);
    if (weights == nullptr || own.begin >= own.end) continue;
    LinearCall call;
    call.format = &weights->a.format;
    call.weights = weights->a.data();
    call.x = x + own.begin * x_stride;
    call.x_stride = x_stride;
    call.tokens = static_cast<int>(own.end - own.begin);
    call.out = hidden(slot + own.begin);
    call.out_stride = stride_;
    call.panel_end = weights->a.format.panels;
    weights->a.kernel(call.tokens >= kBlockedRows ? Walk::kBlocked : Walk::kDirect)(call);
  }
}

void AdapterSet::add_b(size_t node, bool of_rows, size_t output, Range tokens, Range panels, int64_t slot, float* out,
                       int64_t out_stride) const noexcept {
  for (const AdaptedRows& adapted : rows(of_rows)) {
    const LowRankNode* weights = adapted.at(node);
    const Range own = adapted.among(tokens);
    if (weights == nullptr || own.begin >= own.end) continue;
    for (const LowRankNode::Output& part : weights->outputs) {
      if (part.output != output) continue;
      LinearCall call;
      call.format = &part.b.format;
      call.weights = part.b.data();
      call.x = hidden(slot + own.begin) + part.first;
      call.x_stride = stride_;
      call.tokens = static_cast<int>(own.end - own.begin);
      call.out = out + own.begin * out_stride;
      call.out_stride = out_stride;
      call.bias = call.out;  // the sum so far
      call.bias_stride = out_stride;
      call.panel_begin = panels.begin;
      call.panel_end = panels.end;
      part.b.kernel(Walk::kDirect)(call);
    }
  }
}

}  // namespace edgewise::cpu
