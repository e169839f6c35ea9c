#include "backends/reference/executable.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <new>

#include "backends/best_rows.h"
#include "backends/kv_scale.h"
#include "base/error.h"

namespace edgewise::reference {
namespace {

// As operands of 16 bits that give scores in powers of two, or what half of tanh's argument is in them.
void round_query(const Node& node, DType kv, std::span<float> query) {
  const auto softcap = static_cast<float>(node.number("softcap", 0.0));
  const float factor = static_cast<float>(node.number("scale")) * 1.44269504f * (softcap > 0 ? 2 / softcap : 1.0f);
  for (float& x : query) {
    const float scaled = x * factor;
    x = (kv == DType::kBF16 ? bf16_to_float(float_to_bf16(scaled)) : f16_to_float(float_to_f16(scaled))) / factor;
  }
}

// What one row of a sequence sees in one layer, by position.
class RowKv final : public KvReader {
 public:
  RowKv(const LayerCache& cache, const SequenceSlice& sequence, int32_t row)
      : cache_(cache), pages_(sequence.page_table), tree_begin_(sequence.position(row) + 1) {
    if (sequence.tree.empty()) return;
    tree_begin_ = sequence.tree_begin;
    for (uint64_t mask = sequence.tree[static_cast<size_t>(row)]; mask != 0; mask &= mask - 1)
      ancestors_.push_back(tree_begin_ + std::countr_zero(mask));
  }
  std::span<const float> key(int64_t position, int64_t head) const override {
    return cache_.key(page(position), slot(position) % kPageTokens, head);
  }
  std::span<const float> value(int64_t position, int64_t head) const override {
    return cache_.value(page(position), slot(position) % kPageTokens, head);
  }

 private:
  int64_t slot(int64_t position) const {
    return position < tree_begin_ ? position : ancestors_.at(static_cast<size_t>(position - tree_begin_));
  }
  int32_t page(int64_t position) const { return pages_[static_cast<size_t>(slot(position) / kPageTokens)]; }
  const LayerCache& cache_;
  std::span<const int32_t> pages_;
  int64_t tree_begin_;
  std::vector<int64_t> ancestors_;  // slots
};

// The columns a gather names are weights: a file may hold any.
void check_columns(const Graph& graph, const Node& node) {
  const int64_t columns = graph.value(node.inputs[0]).shape.at(1);
  for (const int64_t column : graph.constant(node.inputs[1]).to_int64()) {
    if (column < 0 || column >= columns) bad_file("{}: column {} of {} does not exist", node.name, column, columns);
  }
}

}  // namespace

LayerCache::LayerCache(int64_t pages, int64_t heads, int64_t head_dim, DType dtype)
    : heads_(heads), head_dim_(head_dim), dtype_(dtype) {
  const auto size = static_cast<size_t>(pages * heads * kPageTokens * head_dim);
  keys_.resize(size);
  values_.resize(size);
}

std::vector<float> LayerCache::rounded(std::span<const float> head) const {
  if (!kv_is_scaled(dtype_)) return Tensor::from_floats(dtype_, {head_dim_}, head).to_floats();
  const float scale = kv_scale(dtype_, head);
  const float inverse = 1.0f / scale;
  std::vector<float> result;
  for (const float value : head) {
    const float scaled = value * inverse;
    result.push_back(scale * (dtype_ == DType::kI8 ? kv_int8_code(scaled) : f8e4m3_to_float(float_to_f8e4m3(scaled))));
  }
  return result;
}

void LayerCache::store(int32_t page, int64_t slot, std::span<const float> k, std::span<const float> v) {
  const auto d = static_cast<size_t>(head_dim_);
  for (int64_t head = 0; head < heads_; ++head) {
    const auto from = static_cast<size_t>(head) * d;
    const auto round = [&](std::span<const float> source, std::vector<float>& pages) {
      const auto floats = rounded(source.subspan(from, d));
      std::copy(floats.begin(), floats.end(), pages.begin() + static_cast<std::ptrdiff_t>(offset(page, slot, head)));
    };
    round(k, keys_);
    round(v, values_);
  }
}

void LayerCache::copy(const SlotCopy& copy) {
  for (int64_t head = 0; head < heads_; ++head) {
    const auto from = static_cast<std::ptrdiff_t>(offset(copy.from_page, copy.from_slot, head));
    const auto to = static_cast<std::ptrdiff_t>(offset(copy.to_page, copy.to_slot, head));
    for (auto* pages : {&keys_, &values_}) std::copy_n(pages->begin() + from, head_dim_, pages->begin() + to);
  }
}

void LayerCache::read(int32_t page, std::span<std::byte> to) const {
  std::memcpy(to.data(), keys_.data() + offset(page, 0, 0), page_bytes() / 2);
  std::memcpy(to.data() + page_bytes() / 2, values_.data() + offset(page, 0, 0), page_bytes() / 2);
}

void LayerCache::write(int32_t page, std::span<const std::byte> from) {
  std::memcpy(keys_.data() + offset(page, 0, 0), from.data(), page_bytes() / 2);
  std::memcpy(values_.data() + offset(page, 0, 0), from.data() + page_bytes() / 2, page_bytes() / 2);
}

ReferenceExecutable::ReferenceExecutable(const Graph& graph, const LoadOptions& options)
    : graph_(graph), options_(options), pool_(options.threads), values_(graph.values().size()), rows_(values_.size()) {
  for (const Node& node : graph.nodes()) {
    if (node.op == Op::kGatherColumns) check_columns(graph, node);
    if (node.op != Op::kAttention) continue;
    caches_.try_emplace(node.integer("layer"), options.kv_pages, node.integer("kv_heads"), node.integer("head_dim"),
                        options.kv_dtype);
  }
  profile_.assign(graph.nodes().size(), 0.0);
}

Matrix ReferenceExecutable::matrix(ValueId id) {
  auto& data = values_[static_cast<size_t>(id)];
  const int64_t rows = rows_[static_cast<size_t>(id)];
  return {data, rows, rows == 0 ? 0 : static_cast<int64_t>(data.size()) / rows};
}

Matrix ReferenceExecutable::make(ValueId id, const StepInput& input) {
  const Shape& shape = graph_.value(id).shape;
  const auto rows = static_cast<int64_t>(shape[0] == kTokens ? tokens_ : input.logits_rows.size());
  rows_[static_cast<size_t>(id)] = rows;
  values_[static_cast<size_t>(id)].assign(static_cast<size_t>(rows * shape[1]), 0.0f);
  return matrix(id);
}

std::vector<float> ReferenceExecutable::floats(const Node& node, size_t index) const {
  if (index >= node.inputs.size() || node.inputs[index] == kNone) return {};
  return graph_.constant(node.inputs[index]).to_floats();
}

StepOutcome ReferenceExecutable::run(const StepInput& input, StepOutputs outputs, std::span<int32_t> chosen) noexcept {
  const ValueId hidden = graph_.find_value(kHiddenInput);
  tokens_ = input.count(hidden == kNone ? 0 : graph_.value(hidden).shape.at(1));
  if (tokens_ > static_cast<size_t>(options_.max_tokens)) return StepOutcome::kTooLarge;
  try {
    if (hidden != kNone) {
      values_[static_cast<size_t>(hidden)].assign(input.hidden.begin(), input.hidden.end());
      rows_[static_cast<size_t>(hidden)] = static_cast<int64_t>(tokens_);
    }
    for (size_t i = 0; i < graph_.nodes().size(); ++i) {
      const Node& node = graph_.nodes()[i];
      const auto start = std::chrono::steady_clock::now();
      for (const ValueId output : node.outputs) make(output, input);
      run_node(node, input);
      if (profiling_) profile_[i] += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      if (!observer_) continue;
      std::vector<Tensor> outputs;
      for (const ValueId output : node.outputs) {
        const Matrix m = matrix(output);
        outputs.push_back(Tensor::from_floats(DType::kF32, {m.rows, m.columns}, m.data));
      }
      observer_(node, outputs);
    }
    for (size_t i = 0; i < std::min(outputs.size(), graph_.outputs().size()); ++i) {
      if (outputs[i].empty()) continue;
      const Matrix result = matrix(graph_.outputs()[i]);
      if (outputs[i].size() < result.data.size()) return StepOutcome::kTooLarge;
      std::copy(result.data.begin(), result.data.end(), outputs[i].begin());
    }
    if (!chosen.empty()) pick_best(outputs[0], graph_.value(graph_.outputs()[0]).shape[1], chosen);
    return StepOutcome::kDone;
  } catch (const std::bad_alloc&) {
    return StepOutcome::kOutOfMemory;
  } catch (const std::exception&) {
    return StepOutcome::kDeviceFault;
  }
}

void ReferenceExecutable::run_linear(const Node& node, const StepInput& input) {
  Matrix x = matrix(node.inputs[0]);
  std::vector<float> rounded;
  if (node.text("activation") == "int8") {
    rounded.assign(x.data.begin(), x.data.end());
    x.data = rounded;
    round_rows_to_int8(x);
  } else if (activation_ != DType::kF32 && x.rows > exact_rows_) {
    for (const float value : x.data)
      rounded.push_back(activation_ == DType::kBF16 ? bf16_to_float(float_to_bf16(value))
                                                    : f16_to_float(float_to_f16(value)));
    x.data = rounded;
  }
  for (size_t part = 0; part < node.outputs.size(); ++part) {
    const WeightRows weight(graph_, node, 1 + part * 4);
    linear(pool_, x, weight, floats(node, 4 + part * 4), matrix(node.outputs[part]));
  }
  if (!adapters_.empty()) add_low_rank(node, input);
}

void ReferenceExecutable::add_low_rank(const Node& node, const StepInput& input) {
  const Matrix x = matrix(node.inputs[0]);
  const bool of_rows = graph_.value(node.outputs[0]).shape[0] == kRows;
  const auto index = static_cast<size_t>(&node - graph_.nodes().data());
  for (const SequenceSlice& sequence : input.sequences) {
    if (sequence.adapter < 0) continue;
    for (const BoundLowRank& part : adapters_.at(sequence.adapter)->nodes.at(index)) {
      for (int64_t row = 0; row < x.rows; ++row) {
        const int64_t token = of_rows ? input.logits_rows[static_cast<size_t>(row)] : row;
        if (token < sequence.first_token || token >= sequence.first_token + sequence.token_count) continue;
        low_rank_row(x.row(row), part.weights, matrix(node.outputs[part.output]).row(row));
      }
    }
  }
}

void ReferenceExecutable::run_moe(const Node& node) {
  moe(pool_, matrix(node.inputs[0]), matrix(node.inputs[1]), WeightRows(graph_, node, 2), WeightRows(graph_, node, 5),
      WeightRows(graph_, node, 8), matrix(node.outputs[0]));
}

void ReferenceExecutable::run_rotary_table(const Node& node, const StepInput& input) {
  const auto inv_freq = floats(node, 1);
  const auto long_inv_freq = floats(node, 2);
  const Matrix cos = matrix(node.outputs[0]);
  const Matrix sin = matrix(node.outputs[1]);
  for (const SequenceSlice& sequence : input.sequences) {
    const bool is_long = !long_inv_freq.empty() && sequence.context_length > node.integer("threshold");
    const double scale = node.number("scale", 1.0);
    const double factor = is_long ? node.number("long_scale", scale) : scale;
    for (int32_t row = sequence.first_token; row < sequence.first_token + sequence.token_count; ++row) {
      rotary_table_row(input.positions[static_cast<size_t>(row)], is_long ? long_inv_freq : inv_freq,
                       static_cast<float>(factor), cos.row(row), sin.row(row));
    }
  }
}

void ReferenceExecutable::run_attention(const Node& node, const StepInput& input) {
  const Matrix q = matrix(node.inputs[0]);
  const Matrix k = matrix(node.inputs[1]);
  const Matrix v = matrix(node.inputs[2]);
  const Matrix out = matrix(node.outputs[0]);
  LayerCache& cache = caches_.at(node.integer("layer"));
  for (const SequenceSlice& sequence : input.sequences) {
    for (int32_t i = 0; i < sequence.token_count; ++i) {
      const int64_t slot = sequence.kv_length + i;
      const int64_t row = sequence.first_token + i;
      cache.store(sequence.page_table[static_cast<size_t>(slot / kPageTokens)], slot % kPageTokens, k.row(row),
                  v.row(row));
    }
    const bool rounds = sequence.token_count > exact_queries_ && sequence.tree.empty();
    pool_.run([&](int worker) {
      for (int32_t i = worker; i < sequence.token_count; i += pool_.size()) {
        const int64_t row = sequence.first_token + i;
        std::vector<float> query(q.row(row).begin(), q.row(row).end());
        if (rounds) round_query(node, options_.kv_dtype, query);
        attention_row(node, query, sequence.position(i), RowKv(cache, sequence, i), out.row(row));
      }
    });
  }
}

void ReferenceExecutable::run_elementwise(const Node& node) {
  const Matrix a = matrix(node.inputs[0]);
  const Matrix out = matrix(node.outputs[0]);
  std::vector<float> constant;
  std::span<const float> b;
  if (node.inputs.size() > 1) {
    if (graph_.value(node.inputs[1]).is_constant()) {
      constant = floats(node, 1);
      b = constant;
    } else {
      b = matrix(node.inputs[1]).data;
    }
  }
  for (size_t i = 0; i < a.data.size(); ++i) {
    const float x = a.data[i];
    const float y = b.empty() ? 0.0f : b[i % b.size()];
    switch (node.op) {
      case Op::kAdd:
        out.data[i] = x + y;
        break;
      case Op::kMul:
        out.data[i] = x * y;
        break;
      case Op::kSwiGlu:
        out.data[i] = activation(Op::kSilu, node, x) * y;
        break;
      case Op::kGeGlu:
        out.data[i] = activation(Op::kGelu, node, x) * y;
        break;
      default:
        out.data[i] = activation(node.op, node, x);
    }
  }
}

void ReferenceExecutable::run_node(const Node& node, const StepInput& input) {
  switch (node.op) {
    case Op::kEmbedding:
      return embedding(WeightRows(graph_, node, 1), input.tokens, matrix(node.outputs[0]));
    case Op::kLinear:
      return run_linear(node, input);
    case Op::kRmsNorm:
      return rms_norm(matrix(node.inputs[0]), floats(node, 1), node.number("epsilon"), matrix(node.outputs[0]));
    case Op::kLayerNorm:
      return layer_norm(matrix(node.inputs[0]), floats(node, 1), floats(node, 2), node.number("epsilon"),
                        matrix(node.outputs[0]));
    case Op::kAddRmsNorm: {
      const Matrix a = matrix(node.inputs[0]);
      const Matrix b = matrix(node.inputs[1]);
      const Matrix sum = matrix(node.outputs[0]);
      for (size_t i = 0; i < a.data.size(); ++i) sum.data[i] = a.data[i] + b.data[i];
      return rms_norm(sum, floats(node, 2), node.number("epsilon"), matrix(node.outputs[1]));
    }
    case Op::kRotaryTable:
      return run_rotary_table(node, input);
    case Op::kRotary:
      return rotary(matrix(node.inputs[0]), matrix(node.inputs[1]), matrix(node.inputs[2]), node,
                    matrix(node.outputs[0]));
    case Op::kAttention:
      return run_attention(node, input);
    case Op::kGatherColumns: {
      const auto index = graph_.constant(node.inputs[1]).to_int64();
      const Matrix x = matrix(node.inputs[0]);
      const Matrix out = matrix(node.outputs[0]);
      for (int64_t i = 0; i < x.rows; ++i) {
        for (size_t j = 0; j < index.size(); ++j) out.at(i, static_cast<int64_t>(j)) = x.at(i, index[j]);
      }
      return;
    }
    case Op::kConcat: {
      const Matrix out = matrix(node.outputs[0]);
      int64_t column = 0;
      for (const ValueId id : node.inputs) {
        const Matrix x = matrix(id);
        for (int64_t i = 0; i < x.rows; ++i) std::copy(x.row(i).begin(), x.row(i).end(), out.row(i).begin() + column);
        column += x.columns;
      }
      return;
    }
    case Op::kRoute:
      return route(matrix(node.inputs[0]), node, matrix(node.outputs[0]));
    case Op::kMoe:
      return run_moe(node);
    case Op::kSelectRows: {
      const Matrix x = matrix(node.inputs[0]);
      const Matrix out = matrix(node.outputs[0]);
      for (int64_t i = 0; i < out.rows; ++i) {
        const auto from = x.row(input.logits_rows[static_cast<size_t>(i)]);
        std::copy(from.begin(), from.end(), out.row(i).begin());
      }
      return;
    }
    default:
      return run_elementwise(node);
  }
}

void ReferenceExecutable::copy_slots(std::span<const SlotCopy> copies) noexcept {
  for (auto& [layer, cache] : caches_) {
    for (const SlotCopy& copy : copies) cache.copy(copy);
  }
}

MemoryUse ReferenceExecutable::memory() const {
  MemoryUse use;
  for (const Value& value : graph_.values()) {
    if (value.is_constant()) use.weights += byte_size(value.dtype, static_cast<size_t>(element_count(value.shape)));
  }
  for (const auto& [layer, cache] : caches_) use.kv_cache += cache.bytes();
  for (const auto& data : values_) use.activations += data.capacity() * sizeof(float);
  return use;
}

size_t ReferenceExecutable::page_bytes() const {
  size_t bytes = 0;
  for (const auto& [layer, cache] : caches_) bytes += cache.page_bytes();
  return bytes;
}

void ReferenceExecutable::read_page(int32_t page, std::span<std::byte> to) const {
  for (const auto& [layer, cache] : caches_) {
    cache.read(page, to);
    to = to.subspan(cache.page_bytes());
  }
}

void ReferenceExecutable::write_page(int32_t page, std::span<const std::byte> from) {
  for (auto& [layer, cache] : caches_) {
    cache.write(page, from);
    from = from.subspan(cache.page_bytes());
  }
}

std::vector<double> ReferenceExecutable::take_profile() {
  std::vector<double> result(graph_.nodes().size(), 0.0);
  std::swap(result, profile_);
  return profiling_ ? result : std::vector<double>{};
}

}  // namespace edgewise::reference
