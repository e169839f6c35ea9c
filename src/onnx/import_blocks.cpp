#include <cmath>

#include "onnx/importer.h"

namespace edgewise {

// Skips casts between float types, which carry no meaning here: activations are float32 inside a backend.
const OnnxNode* Importer::through_casts(std::string& value) const {
  const OnnxNode* node = index_.producer(value);
  while (node != nullptr && node->op_type() == "Cast") {
    value = input_of(*node, 0);
    node = index_.producer(value);
  }
  return node;
}

std::pair<ValueId, ValueId> Importer::rotary_table(const OnnxNode& node) {
  std::string angles[2];
  std::string scales[2];
  for (int i = 0; i < 2; ++i) {
    std::string value = input_of(node, 1 + i);
    const OnnxNode* wave = through_casts(value);
    const std::string_view op = i == 0 ? "Cos" : "Sin";
    if (wave != nullptr && wave->op_type() == "Mul") {
      const OnnxNode* inner = nullptr;
      const auto scale = index_.other_input(*wave, op, inner);
      if (scale) scales[i] = *scale;
      wave = inner;
    }
    if (wave == nullptr || wave->op_type() != op)
      refuse(node, "its tables must be cos and sin of position times frequency");
    angles[i] = input_of(*wave, 0);
  }
  if (angles[0] != angles[1] || scales[0] != scales[1])
    refuse(node, "its cos and sin tables belong to different angles");
  const auto known = rotary_tables_.find(angles[0] + "|" + scales[0]);
  if (known != rotary_tables_.end()) return known->second;

  const OnnxNode* angle = index_.producer(angles[0], "Mul");
  const OnnxNode* column = nullptr;
  const auto frequency = angle == nullptr ? std::nullopt : index_.other_input(*angle, "Unsqueeze", column);
  std::string position = frequency ? input_of(*column, 0) : "";
  if (!frequency || (through_casts(position), position != "position_ids")) {
    refuse(node, "its angles must be position_ids times a constant");
  }
  std::vector<ValueId> inputs{positions_};
  Attributes attributes;
  if (const OnnxNode* choice = index_.producer(*frequency, "Where")) {
    const OnnxNode* is_long = index_.producer(input_of(*choice, 0), "GreaterOrEqual");
    const auto threshold = is_long == nullptr ? std::nullopt : index_.scalar(input_of(*is_long, 1));
    const OnnxNode* scale = index_.producer(scales[0], "Where");
    const auto long_scale = scale == nullptr ? std::nullopt : index_.scalar(input_of(*scale, 1));
    const auto short_scale = scale == nullptr ? std::nullopt : index_.scalar(input_of(*scale, 2));
    if (!threshold || !long_scale || !short_scale) refuse(*choice, "frequencies may switch on the last position only");
    inputs.push_back(constant(input_of(*choice, 2)));
    inputs.push_back(constant(input_of(*choice, 1)));
    attributes = {
        {"scale", *short_scale}, {"long_scale", *long_scale}, {"threshold", static_cast<int64_t>(*threshold)}};
  } else {
    inputs.push_back(constant(*frequency));
    const auto scale = scales[0].empty() ? std::optional(1.0) : index_.scalar(scales[0]);
    if (!scale) refuse(node, "its tables' scale must be a constant");
    attributes = {{"scale", *scale}};
  }
  const auto made = graph_.add_node(Op::kRotaryTable, angles[0], std::move(inputs), std::move(attributes));
  return rotary_tables_[angles[0] + "|" + scales[0]] = {made[0], made[1]};
}

void Importer::rotary(const OnnxNode& node) {
  const ValueId x = need(node, 0);
  const auto [cos, sin] = rotary_table(node);
  const int64_t heads = int_attribute(node, "num_heads", 0);
  if (heads < 1 || columns(x) % heads != 0) refuse(node, "num_heads must divide the columns");
  const int64_t head_dim = columns(x) / heads;
  const int64_t dim = int_attribute(node, "rotary_embedding_dim", 0);
  set(node, graph_.add(Op::kRotary, name_of(node), {x, cos, sin},
                       {{"heads", heads},
                        {"head_dim", head_dim},
                        {"rotary_dim", dim == 0 ? head_dim : dim},
                        {"interleaved", int_attribute(node, "interleaved", 0)}}));
}

// And(keys <= queries, keys > queries - window), with keys = Range(0, total) and queries from position_ids.
int64_t Importer::window_of_mask(const OnnxNode& node, const std::string& mask) const {
  const auto is_keys = [&](const std::string& value) { return index_.producer(value, "Range") != nullptr; };
  const auto is_queries = [&](const std::string& value) {
    const OnnxNode* made = index_.producer(value, "Unsqueeze");
    return made != nullptr && input_of(*made, 0) == "position_ids";
  };
  const OnnxNode* both = index_.producer(mask, "And");
  const OnnxNode* causal = both == nullptr ? nullptr : index_.producer(input_of(*both, 0), "LessOrEqual");
  const OnnxNode* near = both == nullptr ? nullptr : index_.producer(input_of(*both, 1), "Greater");
  const OnnxNode* start = near == nullptr ? nullptr : index_.producer(input_of(*near, 1), "Sub");
  const auto window = start == nullptr ? std::nullopt : index_.scalar(input_of(*start, 1));
  if (causal == nullptr || !window || *window < 1 || !is_keys(input_of(*causal, 0)) ||
      !is_queries(input_of(*causal, 1)) || !is_keys(input_of(*near, 0)) || !is_queries(input_of(*start, 0))) {
    refuse(node, "its mask is not a causal sliding window over position_ids");
  }
  return static_cast<int64_t>(*window);
}

void Importer::attention(const OnnxNode& node) {
  const ValueId q = need(node, 0);
  const int64_t q_heads = int_attribute(node, "q_num_heads", 0);
  const int64_t kv_heads = int_attribute(node, "kv_num_heads", 0);
  if (q_heads < 1 || kv_heads < 1 || columns(q) % q_heads != 0) refuse(node, "q_num_heads and kv_num_heads are needed");
  if (!index_.is_input(input_of(node, 4)) || !index_.is_input(input_of(node, 5))) {
    refuse(node, "past_key and past_value must be inputs of the graph");
  }
  const std::string mask = input_of(node, 3);
  const int64_t window = mask.empty() ? 0 : window_of_mask(node, mask);
  if (mask.empty() && int_attribute(node, "is_causal", 0) != 1) refuse(node, "attention must be causal");
  const int64_t head_dim = columns(q) / q_heads;
  const double scale = float_attribute(node, "scale", 1.0 / std::sqrt(static_cast<double>(head_dim)));
  set(node, graph_.add(Op::kAttention, name_of(node), {q, need(node, 1), need(node, 2)},
                       {{"layer", layers_++},
                        {"q_heads", q_heads},
                        {"kv_heads", kv_heads},
                        {"head_dim", head_dim},
                        {"scale", scale},
                        {"softcap", float_attribute(node, "softcap", 0.0)},
                        {"window", window}}));
}

// ScatterElements of the TopK of router scores into zeros.
bool Importer::route(const OnnxNode& node) {
  std::string chosen = input_of(node, 2);
  const OnnxNode* made = index_.producer(chosen);
  bool normalize = false;
  bool after = false;
  if (made != nullptr && made->op_type() == "Div") {
    normalize = index_.producer(input_of(*made, 1), "ReduceSum") != nullptr;
    chosen = input_of(*made, 0);
    made = index_.producer(chosen);
  }
  if (made != nullptr && made->op_type() == "Softmax") {
    after = true;
    chosen = input_of(*made, 0);
    made = index_.producer(chosen);
  }
  if (made == nullptr || made->op_type() != "TopK" || input_of(node, 1) != made->output(1)) return false;
  const auto top_k = index_.integers(input_of(*made, 1));
  std::string logits = input_of(*made, 0);
  if (!after) {
    const OnnxNode* softmax = index_.producer(logits, "Softmax");
    if (softmax == nullptr) return false;
    logits = input_of(*softmax, 0);
  }
  through_casts(logits);
  const Activation* x = find(logits);
  if (x == nullptr || !top_k || top_k->size() != 1) return false;
  set(node, graph_.add(Op::kRoute, name_of(node), {x->id},
                       {{"top_k", (*top_k)[0]},
                        {"normalize", int64_t{normalize}},
                        {"softmax", std::string(after ? "after" : "before")}}));
  return true;
}

// ReduceSum over experts of (silu(x Wg) * (x Wu)) Wd times the routing weights.
bool Importer::moe(const OnnxNode& node) {
  const OnnxNode* weighted = index_.producer(input_of(node, 0), "Mul");
  if (weighted == nullptr) return false;
  const OnnxNode* down = index_.producer(input_of(*weighted, 0), "MatMul");
  std::string weights = input_of(*weighted, 1);
  const OnnxNode* column = through_casts(weights);
  const OnnxNode* hidden = down == nullptr ? nullptr : index_.producer(input_of(*down, 0), "Mul");
  if (column == nullptr || column->op_type() != "Unsqueeze" || hidden == nullptr) return false;
  const OnnxNode* by_expert = index_.producer(input_of(*column, 0), "Transpose");
  const OnnxNode* silu = index_.producer(input_of(*hidden, 0), "Mul");
  const OnnxNode* up = index_.producer(input_of(*hidden, 1), "MatMul");
  const OnnxNode* sigmoid = nullptr;
  const auto gated = silu == nullptr ? std::nullopt : index_.other_input(*silu, "Sigmoid", sigmoid);
  const OnnxNode* gate = gated ? index_.producer(*gated, "MatMul") : nullptr;
  if (by_expert == nullptr || up == nullptr || gate == nullptr || input_of(*gate, 0) != input_of(*up, 0)) return false;
  const OnnxNode* expanded = index_.producer(input_of(*gate, 0), "Unsqueeze");
  const Activation* x = expanded == nullptr ? nullptr : find(input_of(*expanded, 0));
  const Activation* routing = find(input_of(*by_expert, 0));
  if (x == nullptr || routing == nullptr) return false;
  set(node, graph_.add(Op::kMoe, name_of(node),
                       {x->id, routing->id, constant(input_of(*gate, 1)), kNone, kNone, constant(input_of(*up, 1)),
                        kNone, kNone, constant(input_of(*down, 1)), kNone, kNone},
                       {{"transposed", int64_t{0}}}));
  return true;
}

}  // namespace edgewise
