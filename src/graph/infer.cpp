// Shape and dtype rules of every operator.
#include <algorithm>

#include "base/error.h"
#include "graph/graph.h"

namespace edgewise {
namespace {

// One node under inspection; require() names it.
class Checker {
 public:
  Checker(const Graph& graph, const Node& node) : graph_(graph), node_(node) {}

  std::vector<ValueType> infer() const;

 private:
  void require(bool condition, std::string_view rule) const {
    if (condition) return;
    std::string inputs;
    for (const ValueId id : node_.inputs) {
      inputs += id == kNone ? " none" : fmt::format(" {}{}", dtype_name(type(id).dtype), shape_text(type(id).shape));
    }
    fail(ErrorKind::kInternal, "{} {}: {}; inputs:{}", op_name(node_.op), node_.name, rule, inputs);
  }
  void require_inputs(size_t count) const {
    require(node_.inputs.size() == count, fmt::format("takes {} inputs, found {}", count, node_.inputs.size()));
  }
  ValueId input(size_t index) const {
    require(index < node_.inputs.size() && node_.inputs[index] != kNone, fmt::format("input {} is missing", index));
    return node_.inputs[index];
  }
  const Value& type(ValueId id) const { return graph_.value(id); }
  const Value& in(size_t index) const { return type(input(index)); }
  bool given(size_t index) const { return index < node_.inputs.size() && node_.inputs[index] != kNone; }
  const Shape& activation(size_t index) const {
    const Value& v = in(index);
    require(v.shape.size() == 2 && v.shape[0] < 0 && is_float(v.dtype), "expects an activation [tokens, columns]");
    return v.shape;
  }
  ValueType with_columns(int64_t columns) const { return {in(0).dtype, {activation(0)[0], columns}}; }
  ValueType same() const { return with_columns(activation(0)[1]); }

  std::vector<ValueType> linear() const;
  std::vector<ValueType> moe() const;
  ValueType embedding() const;
  ValueType elementwise() const;
  ValueType attention() const;
  std::vector<ValueType> rotary_table() const;
  void check_norm(size_t weight, bool bias) const;
  // Logical [rows, columns] of a stored matrix whose last axis may be packed.
  void check_scales(size_t scale, size_t zero, int64_t n, int64_t k) const;

  const Graph& graph_;
  const Node& node_;
};

void Checker::check_scales(size_t scale, size_t zero, int64_t n, int64_t k) const {
  if (!given(scale)) return require(!given(zero), "a zero point needs a scale");
  const int64_t block = node_.integer("block");
  require(block > 0, "block must be positive");
  const int64_t groups = (k + block - 1) / block;
  const bool transposed = node_.integer("transposed", 0) != 0;
  const Shape expected = transposed ? Shape{n, groups} : Shape{groups, n};
  require(in(scale).shape == expected, fmt::format("expects scales {}", shape_text(expected)));
  if (given(zero)) require(in(zero).shape == expected, fmt::format("expects zero points {}", shape_text(expected)));
}

std::vector<ValueType> Checker::linear() const {
  const int64_t k = activation(0)[1];
  require(node_.inputs.size() >= 5 && node_.inputs.size() % 4 == 1, "takes x and four inputs for each output");
  const bool packed = node_.has("packed");
  std::vector<ValueType> outputs;
  for (size_t part = 0; part < node_.inputs.size() / 4; ++part) {
    const size_t first = 1 + part * 4;
    int64_t n = 0;
    if (packed) {
      require(node_.integer("k") == k, fmt::format("packed for k={}", node_.integer("k")));
      require(node_.integers("n").size() == node_.inputs.size() / 4, "attribute n must have one entry an output");
      n = node_.integers("n")[part];
    } else {
      const bool transposed = node_.integer("transposed", 0) != 0;
      const Shape& weight = in(first).shape;
      require(weight.size() == 2, "expects a matrix");
      n = transposed ? weight[0] : weight[1];
      require((transposed ? weight[1] : weight[0]) == k, "weight and activation disagree on K");
      check_scales(first + 1, first + 2, n, k);
    }
    if (given(first + 3)) require(in(first + 3).shape == Shape{n}, "bias must be [n]");
    outputs.push_back(with_columns(n));
  }
  return outputs;
}

std::vector<ValueType> Checker::moe() const {
  require_inputs(11);
  const Shape& x = activation(0);
  const Shape& routing = activation(1);
  if (node_.has("packed")) return {same()};
  const bool transposed = node_.integer("transposed", 0) != 0;
  int64_t inner = -1;
  for (size_t part = 0; part < 3; ++part) {
    const Shape& weight = in(2 + part * 3).shape;
    require(weight.size() == 3 && weight[0] == routing[1], "expects stacked experts [E, ...]");
    const int64_t n = transposed ? weight[1] : weight[2];
    const int64_t k = transposed ? weight[2] : weight[1];
    if (part < 2) {
      require(k == x[1] && (inner < 0 || n == inner), "gate and up must be [E, I, H]");
      inner = n;
    } else {
      require(k == inner && n == x[1], "down must be [E, H, I]");
    }
  }
  return {same()};
}

ValueType Checker::embedding() const {
  require(node_.inputs.size() == 2 || node_.inputs.size() == 4, "takes tokens, table, and maybe scale and zero");
  require(in(0).dtype == DType::kI32 && in(0).shape == Shape{kTokens}, "expects i32[tokens]");
  require(in(1).shape.size() == 2, "expects a table [V, H]");
  const DType dtype = is_float(in(1).dtype) && bit_width(in(1).dtype) >= 16 ? in(1).dtype : in(2).dtype;
  return {dtype, {kTokens, in(1).shape[1]}};
}

ValueType Checker::elementwise() const {
  require_inputs(2);
  const Shape& a = activation(0);
  const Shape& b = in(1).shape;
  require(b == a || b == Shape{a[1]}, "operands must have the same shape, or the second one be [columns]");
  return same();
}

ValueType Checker::attention() const {
  require_inputs(3);
  const int64_t d = node_.integer("head_dim");
  const int64_t q_heads = node_.integer("q_heads");
  const int64_t kv_heads = node_.integer("kv_heads");
  require(d > 0 && q_heads > 0 && kv_heads > 0 && q_heads % kv_heads == 0, "head counts do not fit");
  require(activation(0)[1] == q_heads * d, "q must be [tokens, q_heads*head_dim]");
  require(activation(1)[1] == kv_heads * d && activation(2)[1] == kv_heads * d,
          "k, v must be [tokens, kv_heads*head_dim]");
  require(node_.integer("layer") >= 0, "needs a layer");
  return same();
}

std::vector<ValueType> Checker::rotary_table() const {
  require(node_.inputs.size() == 2 || node_.inputs.size() == 3, "takes positions and one or two frequency vectors");
  require(in(0).dtype == DType::kI32 && in(0).shape == Shape{kTokens}, "expects i32[tokens]");
  require(in(1).shape.size() == 1, "expects inv_freq [D/2]");
  if (given(2)) require(in(2).shape == in(1).shape, "long_inv_freq must match inv_freq");
  const ValueType out{DType::kF32, {kTokens, in(1).shape[0]}};
  return {out, out};
}

void Checker::check_norm(size_t weight, bool bias) const {
  const int64_t columns = activation(0)[1];
  const Shape& w = in(weight).shape;
  require(w.size() == 1 && w[0] > 0 && columns % w[0] == 0, "weight must divide the columns");
  if (bias && given(weight + 1)) require(in(weight + 1).shape == w, "bias must match weight");
  node_.number("epsilon");
}

std::vector<ValueType> Checker::infer() const {
  switch (node_.op) {
    case Op::kEmbedding:
      return {embedding()};
    case Op::kLinear:
      return linear();
    case Op::kMoe:
      return moe();
    case Op::kRmsNorm:
      require_inputs(2);
      check_norm(1, false);
      return {same()};
    case Op::kLayerNorm:
      require(node_.inputs.size() == 2 || node_.inputs.size() == 3, "takes x, weight and maybe bias");
      check_norm(1, true);
      return {same()};
    case Op::kAddRmsNorm:
      require_inputs(3);
      require(activation(0) == activation(1), "operands must have the same shape");
      check_norm(2, false);
      return {same(), same()};
    case Op::kRotaryTable:
      return rotary_table();
    case Op::kRotary: {
      require_inputs(3);
      const int64_t dim = node_.integer("rotary_dim");
      require(activation(0)[1] == node_.integer("heads") * node_.integer("head_dim"), "columns are not heads*head_dim");
      require(dim > 0 && dim % 2 == 0 && dim <= node_.integer("head_dim"), "rotary_dim out of range");
      require(activation(1)[1] == dim / 2 && activation(2)[1] == dim / 2, "cos, sin must be [tokens, rotary_dim/2]");
      return {same()};
    }
    case Op::kAttention:
      return {attention()};
    case Op::kAdd:
    case Op::kMul:
      return {elementwise()};
    case Op::kSwiGlu:
    case Op::kGeGlu:
      require_inputs(2);
      require(activation(0) == activation(1), "operands must have the same shape");
      return {same()};
    case Op::kScale:
      node_.number("factor");
      [[fallthrough]];
    case Op::kSilu:
    case Op::kGelu:
    case Op::kRelu:
    case Op::kSquare:
      require_inputs(1);
      return {same()};
    case Op::kSoftcap:
      require_inputs(1);
      require(node_.number("cap") > 0, "cap must be positive");
      return {same()};
    case Op::kGatherColumns:
      require_inputs(2);
      require(in(1).dtype == DType::kI32 && in(1).shape.size() == 1, "expects an i32 index");
      return {with_columns(in(1).shape[0])};
    case Op::kConcat: {
      require(!node_.inputs.empty(), "takes at least one input");
      int64_t columns = 0;
      for (size_t i = 0; i < node_.inputs.size(); ++i) {
        require(activation(i)[0] == activation(0)[0], "operands must have the same rows");
        columns += activation(i)[1];
      }
      return {with_columns(columns)};
    }
    case Op::kRoute:
      require_inputs(1);
      require(node_.integer("top_k") > 0 && node_.integer("top_k") <= activation(0)[1], "top_k out of range");
      return {{DType::kF32, activation(0)}};
    case Op::kSelectRows:
      require_inputs(1);
      return {{in(0).dtype, {kRows, activation(0)[1]}}};
  }
  fail(ErrorKind::kInternal, "unknown operator");
}

}  // namespace

std::vector<ValueType> infer_outputs(const Graph& graph, const Node& node) { return Checker(graph, node).infer(); }

}  // namespace edgewise
