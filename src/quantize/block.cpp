#include "quantize/block.h"

#include <cmath>

#include "base/error.h"
#include "graph/weight_rows.h"
#include "quantize/gptq.h"

namespace edgewise {

QuantizedBlock::QuantizedBlock(Graph& graph, const Segment& segment, const std::function<bool(const Node&)>& wanted)
    : graph_(graph), uses_(graph.use_counts()) {
  for (size_t i = segment.first_node; i < segment.end_node; ++i) {
    const Node& node = graph.nodes()[i];
    if (node.op != Op::kLinear || !wanted(node)) continue;
    const WeightRows rows(graph, node, 1);
    FloatMatrix weight(rows.n(), rows.k());
    rows.read(0, rows.n(), weight.data);
    weights_.emplace(static_cast<NodeId>(i), std::move(weight));
    readers_[node.inputs[0]].push_back(static_cast<NodeId>(i));
  }
}

void QuantizedBlock::set_constant(ValueId id, std::vector<float> values) {
  Value& value = graph_.value(id);
  const Tensor tensor = Tensor::from_floats(value.dtype, value.shape, values);
  value.constant = [tensor] { return tensor; };
}

// Every reader must be a Linear of this block, and the producer able to take 1/s.
bool QuantizedBlock::can_fold(ValueId input) const {
  const NodeId producer = graph_.value(input).producer;
  if (producer < 0 || uses_[static_cast<size_t>(input)] != static_cast<int>(readers_.at(input).size())) return false;
  const Node& node = graph_.nodes()[static_cast<size_t>(producer)];
  const auto made_by_linear_here = [&](ValueId id) {
    return weights_.contains(graph_.value(id).producer) && uses_[static_cast<size_t>(id)] == 1;
  };
  switch (node.op) {
    case Op::kRmsNorm:
    case Op::kLayerNorm:
      return graph_.value(node.inputs[1]).shape[0] == graph_.value(input).shape[1];
    case Op::kMul:
      return !graph_.value(node.inputs[1]).is_constant() && made_by_linear_here(node.inputs[1]);
    case Op::kAttention:
      return made_by_linear_here(node.inputs[2]);
    default:
      return false;
  }
}

// Heads that share a value head share its scales: their geometric mean.
std::vector<float> QuantizedBlock::shared_by_heads(ValueId input, const std::vector<float>& s) const {
  const Node& node = graph_.nodes()[static_cast<size_t>(graph_.value(input).producer)];
  if (node.op != Op::kAttention) return s;
  const auto d = static_cast<size_t>(node.integer("head_dim"));
  const auto group = static_cast<size_t>(node.integer("q_heads") / node.integer("kv_heads"));
  std::vector<float> shared(s.size());
  for (size_t first = 0; first < s.size(); first += group * d) {
    for (size_t j = 0; j < d; ++j) {
      double sum = 0;
      for (size_t head = 0; head < group; ++head) sum += std::log(double{s[first + head * d + j]});
      for (size_t head = 0; head < group; ++head) {
        shared[first + head * d + j] = static_cast<float>(std::exp(sum / static_cast<double>(group)));
      }
    }
  }
  return shared;
}

void QuantizedBlock::scale_rows(ValueId linear_output, const std::vector<float>& s) {
  const NodeId id = graph_.value(linear_output).producer;
  FloatMatrix& weight = weights_.at(id);
  const Node& node = graph_.nodes()[static_cast<size_t>(id)];
  output_scales_[node.name] = s;
  for (int64_t i = 0; i < weight.rows; ++i) {
    for (float& value : weight.row(i)) value /= s[static_cast<size_t>(i)];
  }
  if (node.inputs[4] == kNone) return;
  auto bias = graph_.constant(node.inputs[4]).to_floats();
  for (size_t i = 0; i < bias.size(); ++i) bias[i] /= s[i];
  set_constant(node.inputs[4], std::move(bias));
}

void QuantizedBlock::fold(ValueId input, const std::vector<float>& s) {
  for (const NodeId reader : readers_.at(input)) {
    weights_.at(reader) = scale_columns(weights_.at(reader), s);
    input_scales_[graph_.nodes()[static_cast<size_t>(reader)].name] = s;
  }
  const Node& node = graph_.nodes()[static_cast<size_t>(graph_.value(input).producer)];
  if (node.op == Op::kMul) return scale_rows(node.inputs[1], s);
  if (node.op == Op::kAttention) {
    const auto d = static_cast<size_t>(node.integer("head_dim"));
    const auto group = static_cast<size_t>(node.integer("q_heads") / node.integer("kv_heads"));
    std::vector<float> by_value_head;
    for (size_t first = 0; first < s.size(); first += group * d) {
      by_value_head.insert(by_value_head.end(), s.begin() + static_cast<std::ptrdiff_t>(first),
                           s.begin() + static_cast<std::ptrdiff_t>(first + d));
    }
    return scale_rows(node.inputs[2], by_value_head);
  }
  for (size_t index = 1; index < node.inputs.size(); ++index) {  // a norm's weight and bias
    if (node.inputs[index] == kNone) continue;
    auto values = graph_.constant(node.inputs[index]).to_floats();
    for (size_t i = 0; i < values.size(); ++i) values[i] /= s[i];
    set_constant(node.inputs[index], std::move(values));
  }
}

void QuantizedBlock::fold_channel_scales(std::map<ValueId, InputStatistics>& statistics, const QuantScheme& scheme,
                                         DType dtype) {
  for (auto& [input, seen] : statistics) add_noise(seen);
  for (const auto& [input, readers] : readers_) {
    if (!can_fold(input) || !statistics.contains(input)) continue;
    std::vector<FloatMatrix> weights;
    for (const NodeId reader : readers) weights.push_back(weights_.at(reader));
    InputStatistics& seen = statistics.at(input);
    const auto s = shared_by_heads(input, search_channel_scales(weights, seen, scheme, dtype));
    fold(input, s);
    for (size_t i = 0; i < s.size(); ++i) {
      seen.magnitude[i] /= double{s[i]};
      seen.largest[i] /= s[i];
      for (size_t j = 0; j < s.size(); ++j) seen.second_moment.data[i * s.size() + j] /= s[i] * s[j];
    }
  }
}

void QuantizedBlock::round(const std::map<ValueId, InputStatistics>& statistics, const QuantScheme& scheme,
                           DType dtype) {
  for (const auto& [input, readers] : readers_) {
    const auto seen = statistics.find(input);
    std::optional<InverseFactor> factor;
    std::optional<TransposedProduct> product;
    if (seen != statistics.end()) {
      int64_t rows = 0;
      for (const NodeId reader : readers) rows = std::max(rows, weights_.at(reader).rows);
      product.emplace(seen->second.second_moment, rows);
    }
    for (const NodeId reader : readers) {
      const FloatMatrix& weight = weights_.at(reader);
      Result result{graph_.nodes()[static_cast<size_t>(reader)].name, {}, 0};
      if (seen == statistics.end()) {
        result.codes = round_to_nearest(weight, scheme, dtype);
      } else {
        const FloatMatrix& moment = seen->second.second_moment;
        std::vector<float> clip;
        if (scheme.type == WeightType::kInt4) clip = search_clip(weight, moment, scheme, dtype);
        if (scheme.method == WeightMethod::kGptq) {
          if (!factor) factor = factor_inverse(moment);
          result.codes = gptq(weight, *factor, scheme, dtype, clip);
        } else {
          result.codes = round_to_nearest(weight, scheme, dtype, clip);
        }
        const FloatMatrix zero(weight.rows, weight.columns);
        result.relative_error =
            output_error(weight, result.codes.dequantized(), *product) / output_error(weight, zero, *product);
      }
      set_constant(graph_.nodes()[static_cast<size_t>(reader)].inputs[1], result.codes.dequantized().data);
      results_.push_back(std::move(result));
    }
  }
}

}  // namespace edgewise
