#include "models/decoder_builder.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "models/eagle.h"
#include "models/vocab_map.h"

namespace edgewise {

ValueId DecoderBuilder::constant(const std::string& name, const LazyTensor& tensor) {
  return tensor ? graph_.add_constant(name, tensor.dtype, tensor.shape, tensor.load) : kNone;
}

LazyTensor DecoderBuilder::float_weight(const LazyTensor& tensor) const {
  return tensor && is_float(tensor.dtype) && bit_width(tensor.dtype) >= 16 ? lazy_cast(tensor, options_.dtype) : tensor;
}

ValueId DecoderBuilder::bias(const std::string& module, int64_t first, int64_t last, int64_t n) {
  const std::string name = module + ".bias";
  if (!checkpoint_.contains(name)) return kNone;
  return constant(name, lazy_rows(float_weight(lazy(checkpoint_.tensor(name, {n}))), first, last));
}

ValueId DecoderBuilder::linear(ValueId x, const LinearWeight& weight, const std::string& module, ValueId bias) {
  if (weight.gather) {
    x = graph_.add(Op::kGatherColumns, module + ".gather", {x, constant(module + ".g_idx", weight.gather)});
  }
  Attributes attributes{{"transposed", int64_t{1}}};
  if (weight.scale) {
    attributes["block"] = weight.block;
    if (weight.global_scale != 1) attributes["global_scale"] = weight.global_scale;
    if (!weight.activation.empty()) attributes["activation"] = weight.activation;
  }
  return graph_.add(Op::kLinear, module,
                    {x, constant(module + ".weight", float_weight(weight.weight)),
                     constant(module + ".weight_scale", float_weight(weight.scale)),
                     constant(module + ".weight_zero_point", weight.zero), bias},
                    std::move(attributes));
}

ValueId DecoderBuilder::linear(ValueId x, const std::string& module, int64_t n) {
  return linear(x, checkpoint_.linear(module, n, columns(x)), module, bias(module, 0, n, n));
}

ValueId DecoderBuilder::scaled(ValueId x, double factor, const std::string& name) {
  return factor == 1 ? x : graph_.add(Op::kScale, name, {x}, {{"factor", factor}});
}

ValueId DecoderBuilder::norm(ValueId x, const std::string& module, int64_t columns) {
  LazyTensor weight = lazy(checkpoint_.tensor(module + ".weight", {columns}));
  if (spec_.norm_offset != 0) {
    // In float32: 1 + w has more digits than bf16 keeps.
    auto values = weight.load().to_floats();
    for (float& value : values) value += static_cast<float>(spec_.norm_offset);
    weight = lazy(Tensor::from_floats(DType::kF32, {columns}, values));
  } else {
    weight = lazy_cast(weight, options_.dtype);
  }
  std::vector<ValueId> inputs{x, constant(module + ".weight", weight)};
  if (spec_.norm == NormKind::kLayer) inputs.push_back(bias(module, 0, columns, columns));
  return graph_.add(spec_.norm == NormKind::kRms ? Op::kRmsNorm : Op::kLayerNorm, module, std::move(inputs),
                    {{"epsilon", spec_.norm_epsilon}});
}

ValueId DecoderBuilder::optional_norm(ValueId x, const std::string& prefix, const std::string& module,
                                      int64_t columns) {
  return module.empty() ? x : norm(x, prefix + module, columns);
}

ValueId DecoderBuilder::residual(ValueId x, ValueId block, const std::string& name) {
  return graph_.add(Op::kAdd, name, {x, scaled(block, spec_.residual_scale, name + ".scaled")});
}

ValueId DecoderBuilder::rotate(ValueId x, int rotary, int64_t heads, const std::string& name) {
  if (rotary < 0) return x;
  const Rotation& rotation = rotations_.at(static_cast<size_t>(rotary));
  return graph_.add(Op::kRotary, name, {x, rotation.cos, rotation.sin},
                    {{"heads", heads},
                     {"head_dim", spec_.head_dim},
                     {"rotary_dim", spec_.rotary_dim},
                     {"interleaved", int64_t{spec_.rotary_interleaved}}});
}

std::vector<ValueId> DecoderBuilder::project_qkv(ValueId x, const std::string& prefix) {
  const int64_t q_columns = spec_.q_heads * spec_.head_dim;
  const int64_t kv_columns = spec_.kv_heads * spec_.head_dim;
  if (spec_.qkv.empty()) {
    return {linear(x, prefix + spec_.q, q_columns), linear(x, prefix + spec_.k, kv_columns),
            linear(x, prefix + spec_.v, kv_columns)};
  }
  const std::string module = prefix + spec_.qkv;
  const int64_t total = q_columns + 2 * kv_columns;
  const LinearWeight fused = checkpoint_.linear(module, total, columns(x));
  std::vector<ValueId> result;
  int64_t first = 0;
  for (const auto& [name, size] : {std::pair{".q", q_columns}, {".k", kv_columns}, {".v", kv_columns}}) {
    result.push_back(
        linear(x, slice_rows(fused, first, first + size), module + name, bias(module, first, first + size, total)));
    first += size;
  }
  return result;
}

ValueId DecoderBuilder::attention(ValueId x, size_t index, const std::string& prefix) {
  const LayerSpec& layer = spec_.layers[index];
  auto qkv = project_qkv(x, prefix);
  // The weight's length says whether a norm runs over each head or over all columns.
  const auto head_norm = [&](ValueId v, const std::string& module) {
    if (module.empty()) return v;
    const int64_t length = checkpoint_.tensor(prefix + module + ".weight").count();
    if (length != spec_.head_dim && length != columns(v)) {
      bad_file("{}: {}{}.weight has {} elements, expected {} or {}", checkpoint_.directory().string(), prefix, module,
               length, spec_.head_dim, columns(v));
    }
    return norm(v, prefix + module, length);
  };
  const ValueId q = rotate(head_norm(qkv[0], spec_.q_norm), layer.rotary, spec_.q_heads, prefix + "q_rotary");
  const ValueId k = rotate(head_norm(qkv[1], spec_.k_norm), layer.rotary, spec_.kv_heads, prefix + "k_rotary");
  const double scale =
      spec_.attention_scale != 0 ? spec_.attention_scale : 1.0 / std::sqrt(static_cast<double>(spec_.head_dim));
  const ValueId mixed = graph_.add(Op::kAttention, prefix + "attention", {q, k, qkv[2]},
                                   {{"layer", static_cast<int64_t>(index)},
                                    {"q_heads", spec_.q_heads},
                                    {"kv_heads", spec_.kv_heads},
                                    {"head_dim", spec_.head_dim},
                                    {"scale", scale},
                                    {"softcap", spec_.attention_softcap},
                                    {"window", layer.window}});
  return linear(mixed, prefix + spec_.o, spec_.hidden);
}

ValueId DecoderBuilder::activate(ValueId x, const std::string& name) {
  Attributes attributes;
  if (spec_.activation == Op::kGelu) attributes["approximate"] = spec_.gelu;
  return graph_.add(spec_.activation, name, {x}, std::move(attributes));
}

ValueId DecoderBuilder::mlp(ValueId x, const std::string& prefix) {
  ValueId hidden = kNone;
  if (!spec_.gate_up.empty()) {
    const std::string module = prefix + spec_.gate_up;
    const LinearWeight fused = checkpoint_.linear(module, -1, columns(x));
    const int64_t half = fused.n() / 2;
    const ValueId gate = linear(x, slice_rows(fused, 0, half), module + ".gate", bias(module, 0, half, 2 * half));
    const ValueId up =
        linear(x, slice_rows(fused, half, 2 * half), module + ".up", bias(module, half, 2 * half, 2 * half));
    hidden = graph_.add(Op::kMul, module + ".product", {activate(gate, module + ".activation"), up});
  } else if (!spec_.gate.empty()) {
    const ValueId gate = linear(x, prefix + spec_.gate, checkpoint_.linear(prefix + spec_.gate, -1, columns(x)).n());
    const ValueId up = linear(x, prefix + spec_.up, columns(gate));
    hidden = graph_.add(Op::kMul, prefix + "mlp.product", {activate(gate, prefix + "mlp.activation"), up});
  } else {
    const ValueId up = linear(x, prefix + spec_.up, checkpoint_.linear(prefix + spec_.up, -1, columns(x)).n());
    hidden = activate(up, prefix + "mlp.activation");
  }
  return linear(hidden, prefix + spec_.down, spec_.hidden);
}

LazyTensor DecoderBuilder::stack_experts(const std::string& prefix, const std::string& module, int64_t n,
                                         int64_t k) const {
  std::vector<LazyTensor> parts;
  for (int64_t e = 0; e < spec_.experts; ++e) {
    const std::string name = fmt::format("{}{}{}.{}", prefix, spec_.expert_prefix, e, module);
    const LinearWeight weight = checkpoint_.linear(name, n, k);
    if (weight.scale) unsupported("{}: quantized experts are not supported", name);
    parts.push_back(float_weight(weight.weight));
  }
  return {options_.dtype, {spec_.experts, n, k}, [parts, n, k, dtype = options_.dtype] {
            Tensor stacked = Tensor::zeros(dtype, {static_cast<int64_t>(parts.size()), n, k});
            auto out = stacked.mutable_bytes();
            for (const LazyTensor& part : parts) {
              const Tensor expert = part.load();
              std::copy(expert.bytes().begin(), expert.bytes().end(), out.begin());
              out = out.subspan(expert.bytes().size());
            }
            return stacked;
          }};
}

ValueId DecoderBuilder::experts(ValueId x, const std::string& prefix) {
  const std::string first = prefix + spec_.expert_prefix + "0." + spec_.expert_gate;
  const int64_t inner = checkpoint_.linear(first, -1, spec_.hidden).n();
  const ValueId scores = linear(x, prefix + spec_.router, spec_.experts);
  const ValueId routing = graph_.add(Op::kRoute, prefix + "route", {scores},
                                     {{"top_k", spec_.experts_per_token},
                                      {"normalize", int64_t{spec_.normalize_experts}},
                                      {"softmax", std::string("before")}});
  const std::string base = prefix + spec_.expert_prefix;
  const ValueId gate = constant(base + "gate", stack_experts(prefix, spec_.expert_gate, inner, spec_.hidden));
  const ValueId up = constant(base + "up", stack_experts(prefix, spec_.expert_up, inner, spec_.hidden));
  const ValueId down = constant(base + "down", stack_experts(prefix, spec_.expert_down, spec_.hidden, inner));
  return graph_.add(Op::kMoe, prefix + "moe", {x, routing, gate, kNone, kNone, up, kNone, kNone, down, kNone, kNone},
                    {{"transposed", int64_t{1}}});
}

ValueId DecoderBuilder::layer(ValueId x, size_t index) {
  const std::string prefix = fmt::format("{}{}.", spec_.layer_prefix, index);
  const auto feed_forward = [&](ValueId v) {
    return spec_.layers[index].experts ? experts(v, prefix) : mlp(v, prefix);
  };
  const ValueId normed = optional_norm(x, prefix, spec_.attention_norm, spec_.hidden);
  const ValueId attended =
      optional_norm(attention(normed, index, prefix), prefix, spec_.attention_out_norm, spec_.hidden);
  const ValueId after = residual(x, attended, prefix + "attention_residual");
  // In parallel blocks the MLP reads x: through its own norm, or sharing attention's.
  const bool shared_norm = spec_.parallel_residual && spec_.mlp_norm.empty();
  const ValueId mlp_in =
      shared_norm ? normed : optional_norm(spec_.parallel_residual ? x : after, prefix, spec_.mlp_norm, spec_.hidden);
  const ValueId fed = optional_norm(feed_forward(mlp_in), prefix, spec_.mlp_out_norm, spec_.hidden);
  return residual(after, fed, layer_output(index, prefix));
}

// What a layer puts out is the input of the next one, which a draft head may ask for.
std::string DecoderBuilder::layer_output(size_t index, const std::string& prefix) const {
  const auto& wanted = options_.hidden_layers;
  const auto found = std::find(wanted.begin(), wanted.end(), static_cast<int64_t>(index) + 1);
  if (found == wanted.end()) return prefix + "mlp_residual";
  return std::string(kHiddenOutputs.at(static_cast<size_t>(found - wanted.begin())));
}

// The head's rows of the tokens that keep their logits.
LazyTensor DecoderBuilder::kept_rows(const LazyTensor& tensor) const {
  if (!tensor || options_.kept_tokens.empty()) return tensor;
  LazyTensor result = tensor;
  result.shape.at(0) = static_cast<int64_t>(options_.kept_tokens.size());
  result.load = [load = tensor.load, kept = options_.kept_tokens] { return gather_rows(load(), kept); };
  return result;
}

ValueId DecoderBuilder::head_bias() {
  const std::string name = spec_.lm_head + ".bias";
  if (!checkpoint_.contains(name)) return kNone;
  return constant(name, kept_rows(float_weight(lazy(checkpoint_.tensor(name, {spec_.vocabulary})))));
}

ValueId DecoderBuilder::logits(ValueId x, ValueId table) {
  const ValueId normed = norm(x, spec_.final_norm, spec_.hidden);
  ValueId result = kNone;
  if (spec_.tied_embeddings && options_.kept_tokens.empty()) {
    result = graph_.add(Op::kLinear, spec_.lm_head, {normed, table, kNone, kNone, head_bias()},
                        {{"transposed", int64_t{1}}});
  } else {
    LinearWeight head =
        checkpoint_.linear(spec_.tied_embeddings ? spec_.embedding : spec_.lm_head, spec_.vocabulary, spec_.hidden);
    head.weight = kept_rows(head.weight);
    head.scale = kept_rows(head.scale);
    head.zero = kept_rows(head.zero);
    result = linear(normed, head, spec_.lm_head, head_bias());
  }
  result = scaled(result, spec_.logits_scale, "logits_scaled");
  if (spec_.logits_softcap > 0) {
    result = graph_.add(Op::kSoftcap, "logits_capped", {result}, {{"cap", spec_.logits_softcap}});
  }
  return result;
}

void DecoderBuilder::begin(const std::string& name) {
  graph_.name = name;
  tokens_ = graph_.add_input("input_ids", DType::kI32, {kTokens});
  const ValueId positions = graph_.add_input("position_ids", DType::kI32, {kTokens});
  for (const RotaryFrequencies& rotary : spec_.rotary) {
    const std::string table = fmt::format("rotary.{}", rotations_.size());
    const auto size = static_cast<int64_t>(rotary.inv_freq.size());
    std::vector<ValueId> inputs{
        positions, graph_.add_constant(table + ".inv_freq", Tensor::from_floats(DType::kF32, {size}, rotary.inv_freq))};
    Attributes attributes{{"scale", rotary.scale}};
    if (!rotary.long_inv_freq.empty()) {
      inputs.push_back(graph_.add_constant(table + ".long_inv_freq",
                                           Tensor::from_floats(DType::kF32, {size}, rotary.long_inv_freq)));
      attributes["long_scale"] = rotary.long_scale;
      attributes["threshold"] = rotary.threshold;
    }
    const auto outputs = graph_.add_node(Op::kRotaryTable, table, std::move(inputs), std::move(attributes));
    rotations_.push_back({outputs[0], outputs[1]});
  }
}

ValueId DecoderBuilder::embed(ValueId table) {
  const ValueId x = graph_.add(Op::kEmbedding, spec_.embedding, {tokens_, table});
  return scaled(x, spec_.embedding_scale, "embedding_scaled");
}

Graph DecoderBuilder::finish() {
  graph_.compact();
  verify_graph(graph_);
  return std::move(graph_);
}

Graph DecoderBuilder::build() {
  begin("decoder");
  const Tensor embedding = checkpoint_.tensor(spec_.embedding + ".weight", {spec_.vocabulary, spec_.hidden});
  const ValueId table = constant(spec_.embedding + ".weight", float_weight(lazy(embedding)));
  ValueId x = embed(table);
  for (size_t index = 0; index < spec_.layers.size(); ++index) x = layer(x, index);
  graph_.mark_output(logits(x, table));
  for (size_t i = 0; i < options_.hidden_layers.size(); ++i)
    graph_.mark_output(graph_.find_value(kHiddenOutputs.at(i)));
  return finish();
}

Graph build_decoder(const DecoderSpec& spec, const Checkpoint& checkpoint, const DecoderOptions& options) {
  return DecoderBuilder(spec, checkpoint, options).build();
}

}  // namespace edgewise
