#include "onnx/import.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/error.h"
#include "onnx/pattern.h"

namespace edgewise {
namespace {

// Operators that only ever stand inside a larger form and are read backwards from its last node. Whatever no form
// claims is reported when its value is needed.
const std::set<std::string, std::less<>> kInner = {
    "Abs",   "And",       "Cast",           "Cos",         "DequantizeLinear",
    "Div",   "Greater",   "GreaterOrEqual", "LessOrEqual", "Max",
    "Range", "ReduceMax", "Round",          "Shape",       "Sigmoid",
    "Sin",   "Softmax",   "Squeeze",        "Sub",         "Tanh",
    "TopK",  "Transpose", "Unsqueeze",      "Where",
};

constexpr int64_t kMostColumns = int64_t{1} << 24;

class Importer {
 public:
  explicit Importer(const OnnxFile& file) : file_(file), index_(file) {}

  Graph run();

 private:
  // An ONNX value that is an activation here, perhaps seen as [.., heads, head_dim].
  struct Activation {
    ValueId id = kNone;
    int64_t head_dim = 0;  // 0: not split into heads
  };

  [[noreturn]] void refuse(const OnnxNode& node, std::string_view why) const {
    unsupported("{}: {} node \"{}\": {}", file_.source(), node.op_type(), node.name(), why);
  }
  const Activation* find(const std::string& name) const {
    const auto it = activations_.find(name);
    return it == activations_.end() ? nullptr : &it->second;
  }
  ValueId need(const OnnxNode& node, int input) const;
  const OnnxNode& first_unknown(const OnnxNode& node) const;
  int64_t columns(ValueId id) const { return graph_.value(id).shape.at(1); }
  void set(const OnnxNode& node, ValueId id, int output = 0) { activations_[node.output(output)] = {id, 0}; }
  std::string name_of(const OnnxNode& node) const { return node.output(0); }
  ValueId constant(const std::string& name);
  ValueId cast_constant(const std::string& name, DType dtype);

  void add_hidden_inputs();
  void mark_outputs();
  void lower(const OnnxNode& node);
  void gather(const OnnxNode& node);
  void matmul(const OnnxNode& node);
  void add(const OnnxNode& node);
  bool multiply(const OnnxNode& node);
  bool int8_rounding(const OnnxNode& node);
  bool softcap(const OnnxNode& node);
  void concat(const OnnxNode& node);
  void norm(const OnnxNode& node);
  void reshape(const OnnxNode& node);
  void rotary(const OnnxNode& node);
  std::pair<ValueId, ValueId> rotary_table(const OnnxNode& node);
  void attention(const OnnxNode& node);
  int64_t window_of_mask(const OnnxNode& node, const std::string& mask) const;
  bool route(const OnnxNode& node);
  bool moe(const OnnxNode& node);
  void unary(const OnnxNode& node, Op op, Attributes attributes = {});
  const OnnxNode* through_casts(std::string& value) const;

  const OnnxFile& file_;
  OnnxIndex index_;
  Graph graph_;
  ValueId tokens_ = kNone;
  ValueId positions_ = kNone;
  std::map<std::string, Activation> activations_;
  std::map<std::string, ValueId> int8_rounded_;
  std::map<std::string, ValueId> constants_;
  std::map<std::string, std::pair<ValueId, ValueId>> rotary_tables_;
  int64_t layers_ = 0;
};

// The node a reader should look at: up from one that was not lowered while what it reads was not either.
const OnnxNode& Importer::first_unknown(const OnnxNode& node) const {
  const OnnxNode* current = &node;
  for (int steps = file_.graph().node_size(); steps > 0; --steps) {
    const OnnxNode* above = nullptr;
    for (int i = 0; i < current->input_size() && above == nullptr; ++i) {
      if (find(current->input(i)) == nullptr) above = index_.producer(current->input(i));
    }
    if (above == nullptr) break;
    current = above;
  }
  return *current;
}

ValueId Importer::need(const OnnxNode& node, int input) const {
  const std::string name = input_of(node, input);
  if (const Activation* found = find(name)) return found->id;
  if (const OnnxNode* producer = index_.producer(name)) {
    refuse(first_unknown(*producer), "not part of a form that Edgewise lowers; docs/onnx.md lists them");
  }
  refuse(node, fmt::format("input {} (\"{}\") is not an activation", input, name));
}

ValueId Importer::constant(const std::string& name) {
  if (name.empty()) return kNone;
  const auto known = constants_.find(name);
  if (known != constants_.end()) return known->second;
  const auto* entry = index_.initializer(name);
  if (entry == nullptr) unsupported("{}: \"{}\" must be a constant", file_.source(), name);
  const Tensor tensor = file_.tensor(*entry);
  return constants_[name] = graph_.add_constant(name, tensor);
}

ValueId Importer::cast_constant(const std::string& name, DType dtype) {
  const auto* entry = index_.initializer(name);
  if (entry == nullptr) unsupported("{}: \"{}\" must be a constant", file_.source(), name);
  Tensor tensor = file_.tensor(*entry);
  if (dtype == DType::kI32) {
    Tensor narrow = Tensor::zeros(DType::kI32, tensor.shape());
    const auto values = tensor.to_int64();
    for (size_t i = 0; i < values.size(); ++i) narrow.mutable_as<int32_t>()[i] = static_cast<int32_t>(values[i]);
    tensor = narrow;
  }
  return graph_.add_constant(name, tensor);
}

void Importer::gather(const OnnxNode& node) {
  const int64_t axis = int_attribute(node, "axis", 0);
  if (input_of(node, 1) == "input_ids" && axis == 0) {
    return set(node, graph_.add(Op::kEmbedding, name_of(node), {tokens_, constant(input_of(node, 0))}));
  }
  if (axis == -1 || axis == 2) {
    const ValueId index = cast_constant(input_of(node, 1), DType::kI32);
    return set(node, graph_.add(Op::kGatherColumns, name_of(node), {need(node, 0), index}));
  }
  refuse(node, "only token embeddings and column gathers are supported");
}

void Importer::matmul(const OnnxNode& node) {
  const std::string x_name = input_of(node, 0);
  const auto rounded = int8_rounded_.find(x_name);
  const Activation* found = find(x_name);
  if (found == nullptr && rounded == int8_rounded_.end()) return;  // inside a mixture of experts
  const ValueId x = found != nullptr ? found->id : rounded->second;
  const std::string w_name = input_of(node, 1);
  Attributes attributes{{"transposed", int64_t{0}}};
  if (rounded != int8_rounded_.end()) attributes["activation"] = std::string("int8");
  std::vector<ValueId> inputs{x, kNone, kNone, kNone, kNone};
  if (index_.initializer(w_name) != nullptr) {
    inputs[1] = constant(w_name);
  } else if (const OnnxNode* flipped = index_.producer(w_name, "Transpose")) {
    inputs[1] = constant(input_of(*flipped, 0));
    attributes["transposed"] = int64_t{1};
  } else if (const OnnxNode* dequantize = index_.producer(w_name, "DequantizeLinear")) {
    inputs[1] = constant(input_of(*dequantize, 0));
    inputs[2] = constant(input_of(*dequantize, 1));
    inputs[3] = constant(input_of(*dequantize, 2));
    const int64_t block = int_attribute(*dequantize, "block_size", 0);
    if (int_attribute(*dequantize, "axis", 1) != 0 || block < 1) {
      refuse(*dequantize, "weights must be quantized in blocks along axis 0");
    }
    attributes["block"] = block;
  } else {
    refuse(node, "the second operand must be a constant, transposed or dequantized");
  }
  const Shape& shape = graph_.value(inputs[1]).shape;
  if (shape.size() != 2) refuse(node, "the second operand must be a matrix");
  // Adapters find a Linear by its node's name.
  const std::string name = node.name().empty() ? name_of(node) : node.name();
  set(node, graph_.add(Op::kLinear, name, std::move(inputs), std::move(attributes)));
}

void Importer::add(const OnnxNode& node) {
  if (index_.initializer(input_of(node, 1)) != nullptr) {
    if (find(input_of(node, 0)) == nullptr) return;
    return set(node, graph_.add(Op::kAdd, name_of(node), {need(node, 0), constant(input_of(node, 1))}));
  }
  if (find(input_of(node, 0)) == nullptr && find(input_of(node, 1)) == nullptr) return;  // index arithmetic of a mask
  set(node, graph_.add(Op::kAdd, name_of(node), {need(node, 0), need(node, 1)}));
}

// Mul(Round(Div(x, s)), s) with s = Max(ReduceMax(Abs(x)), tiny) / 127: int8 activations, a scale a token.
bool Importer::int8_rounding(const OnnxNode& node) {
  const OnnxNode* rounded = nullptr;
  const auto scale = index_.other_input(node, "Round", rounded);
  if (!scale) return false;
  const OnnxNode* divided = index_.producer(input_of(*rounded, 0), "Div");
  if (divided == nullptr || input_of(*divided, 1) != *scale || find(input_of(*divided, 0)) == nullptr) return false;
  const OnnxNode* ratio = index_.producer(*scale, "Div");
  if (ratio == nullptr || index_.scalar(input_of(*ratio, 1)) != 127.0) return false;
  const OnnxNode* positive = index_.producer(input_of(*ratio, 0), "Max");
  const OnnxNode* largest =
      index_.producer(positive != nullptr ? input_of(*positive, 0) : input_of(*ratio, 0), "ReduceMax");
  const OnnxNode* magnitude = largest == nullptr ? nullptr : index_.producer(input_of(*largest, 0), "Abs");
  if (magnitude == nullptr || input_of(*magnitude, 0) != input_of(*divided, 0)) return false;
  if (index_.integers(input_of(*largest, 1)) != std::vector<int64_t>{-1}) return false;
  int8_rounded_[node.output(0)] = need(*divided, 0);
  return true;
}

bool Importer::softcap(const OnnxNode& node) {
  const OnnxNode* tanh = nullptr;
  const auto factor = index_.other_input(node, "Tanh", tanh);
  if (!factor) return false;
  const OnnxNode* divided = index_.producer(input_of(*tanh, 0), "Div");
  const auto cap = index_.scalar(*factor);
  if (divided == nullptr || !cap || *cap <= 0 || index_.scalar(input_of(*divided, 1)) != cap) return false;
  set(node, graph_.add(Op::kSoftcap, name_of(node), {need(*divided, 0)}, {{"cap", *cap}}));
  return true;
}

bool Importer::multiply(const OnnxNode& node) {
  const std::string a = input_of(node, 0);
  const std::string b = input_of(node, 1);
  const OnnxNode* sigmoid = nullptr;
  const auto other = index_.other_input(node, "Sigmoid", sigmoid);
  if (other && find(*other) != nullptr && input_of(*sigmoid, 0) == *other) {
    set(node, graph_.add(Op::kSilu, name_of(node), {find(*other)->id}));
    return true;
  }
  if (int8_rounding(node) || softcap(node)) return true;
  const bool first = find(a) != nullptr;
  const bool second = find(b) != nullptr;
  if (!first && !second) return false;
  if (first && second) {
    const Attributes none;
    set(node, a == b ? graph_.add(Op::kSquare, name_of(node), {need(node, 0)})
                     : graph_.add(Op::kMul, name_of(node), {need(node, 0), need(node, 1)}));
    return true;
  }
  const ValueId x = first ? need(node, 0) : need(node, 1);
  const std::string& operand = first ? b : a;
  if (index_.initializer(operand) == nullptr) return false;
  if (const auto factor = index_.scalar(operand)) {
    set(node, graph_.add(Op::kScale, name_of(node), {x}, {{"factor", *factor}}));
  } else {
    set(node, graph_.add(Op::kMul, name_of(node), {x, constant(operand)}));
  }
  return true;
}

void Importer::concat(const OnnxNode& node) {
  const int64_t axis = int_attribute(node, "axis", 0);
  if (axis != -1 && axis != 2) refuse(node, "only columns are put side by side");
  std::vector<ValueId> parts;
  for (int i = 0; i < node.input_size(); ++i) parts.push_back(need(node, i));
  set(node, graph_.add(Op::kConcat, name_of(node), std::move(parts)));
}

void Importer::norm(const OnnxNode& node) {
  const Activation* x = find(input_of(node, 0));
  if (x == nullptr) need(node, 0);
  const ValueId weight = constant(input_of(node, 1));
  const int64_t length = graph_.value(weight).shape.at(0);
  if (length != (x->head_dim != 0 ? x->head_dim : columns(x->id))) refuse(node, "the scale must span the last axis");
  const int64_t axis = int_attribute(node, "axis", -1);
  if (axis != -1 && axis != (x->head_dim != 0 ? 3 : 2)) refuse(node, "only the last axis is normalized");
  const bool rms = node.op_type() == "RMSNormalization";
  std::vector<ValueId> inputs{x->id, weight};
  if (!rms) inputs.push_back(constant(input_of(node, 2)));
  const ValueId y = graph_.add(rms ? Op::kRmsNorm : Op::kLayerNorm, name_of(node), std::move(inputs),
                               {{"epsilon", float_attribute(node, "epsilon", 1e-5)}});
  activations_[node.output(0)] = {y, x->head_dim};
}

// [B, S, C] <-> [B, S, heads, head_dim] and back: the same activation seen otherwise.
void Importer::reshape(const OnnxNode& node) {
  const Activation* x = find(input_of(node, 0));
  if (x == nullptr) return;
  const auto shape = index_.integers(input_of(node, 1));
  if (!shape) refuse(node, "the shape must be a constant");
  const int64_t all = columns(x->id);
  if (shape->size() == 4 && (*shape)[3] > 0 && all % (*shape)[3] == 0 &&
      ((*shape)[2] == -1 || (*shape)[2] * (*shape)[3] == all)) {
    activations_[node.output(0)] = {x->id, (*shape)[3]};
  } else if (shape->size() == 3 && ((*shape)[2] == all || (*shape)[2] == -1)) {
    activations_[node.output(0)] = {x->id, 0};
  } else {
    refuse(node,
           fmt::format("the shape [{}] is neither [batch, sequence, columns] nor its heads", fmt::join(*shape, ", ")));
  }
}

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

void Importer::unary(const OnnxNode& node, Op op, Attributes attributes) {
  set(node, graph_.add(op, name_of(node), {need(node, 0)}, std::move(attributes)));
}

void Importer::lower(const OnnxNode& node) {
  if (!node.domain().empty() && node.domain() != "ai.onnx") {
    refuse(node, fmt::format("the operator domain {} is not supported", node.domain()));
  }
  if (node.output_size() == 0) refuse(node, "a node without outputs");
  const std::string& op = node.op_type();
  if (op == "Gather") return gather(node);
  if (op == "MatMul") return matmul(node);
  if (op == "Add") return add(node);
  if (op == "Mul") return static_cast<void>(multiply(node));
  if (op == "RMSNormalization" || op == "LayerNormalization") return norm(node);
  if (op == "Reshape") return reshape(node);
  if (op == "Concat") return concat(node);
  if (op == "RotaryEmbedding") return rotary(node);
  if (op == "Attention") return attention(node);
  if (op == "Gelu") return unary(node, Op::kGelu, {{"approximate", string_attribute(node, "approximate", "none")}});
  if (op == "Relu") return unary(node, Op::kRelu);
  if (op == "ScatterElements") {
    if (!route(node)) refuse(node, "not the routing of a mixture of experts");
    return;
  }
  if (op == "ReduceSum") return static_cast<void>(moe(node));
  if (op == "Cast") {
    if (const Activation* x = find(input_of(node, 0))) activations_[node.output(0)] = *x;
    return;
  }
  if (!kInner.contains(op)) refuse(node, "the operator is not supported");
}

// Hidden states of another graph, [batch, sequence, columns]: what a draft head starts from.
void Importer::add_hidden_inputs() {
  for (const auto& input : file_.graph().input()) {
    const auto& type = input.type().tensor_type();
    if (type.shape().dim_size() != 3) continue;
    const int64_t columns = type.shape().dim(2).dim_value();
    if (columns < 1 || columns > kMostColumns) {
      unsupported("{}: the input {} must have a known number of columns", file_.source(), input.name());
    }
    const DType dtype = dtype_from_onnx(type.elem_type(), file_.source() + ": " + input.name());
    activations_[input.name()] = {graph_.add_input(input.name(), dtype, {kTokens, columns}), 0};
  }
}

// The logits first, then the other activations that the file puts out.
void Importer::mark_outputs() {
  const Activation* logits = find("logits");
  if (logits == nullptr) {
    const OnnxNode* producer = index_.producer("logits");
    if (producer != nullptr) refuse(*producer, "the logits are not made by a form that Edgewise lowers");
    bad_file("{}: expected an output named logits", file_.source());
  }
  graph_.mark_output(logits->id);
  for (const auto& output : file_.graph().output()) {
    const Activation* found = find(output.name());
    if (found == nullptr || std::ranges::count(graph_.outputs(), found->id) > 0) continue;
    graph_.mark_output(found->id);
  }
}

Graph Importer::run() {
  graph_.name = "decoder";
  if (!index_.is_input("input_ids") || !index_.is_input("position_ids")) {
    bad_file("{}: expected the inputs input_ids and position_ids", file_.source());
  }
  tokens_ = graph_.add_input("input_ids", DType::kI32, {kTokens});
  positions_ = graph_.add_input("position_ids", DType::kI32, {kTokens});
  add_hidden_inputs();
  // Shape errors found while nodes are added are the file's fault, not ours.
  try {
    for (const OnnxNode& node : file_.graph().node()) lower(node);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kInternal) throw;
    bad_file("{}: {}", file_.source(), error.what());
  } catch (const std::out_of_range&) {
    bad_file("{}: a constant has too few dimensions", file_.source());
  }
  mark_outputs();
  graph_.compact();
  verify_graph(graph_);
  return std::move(graph_);
}

}  // namespace

Graph import_onnx(const std::filesystem::path& path) { return import_onnx(OnnxFile::open(path)); }

Graph import_onnx(const OnnxFile& file) { return Importer(file).run(); }

}  // namespace edgewise
