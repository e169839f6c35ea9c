#include <algorithm>
#include <cmath>
#include <set>

#include "onnx/importer.h"

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

}  // namespace

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

Graph import_onnx(const std::filesystem::path& path) { return import_onnx(OnnxFile::open(path)); }

Graph import_onnx(const OnnxFile& file) { return Importer(file).run(); }

}  // namespace edgewise
