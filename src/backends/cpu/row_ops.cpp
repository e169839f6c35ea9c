// Operators that look at one row at a time: embedding, norms, rotary, activations, routing, gathers.
#include <algorithm>
#include <array>
#include <cmath>

#include "backends/cpu/ops.h"
#include "base/error.h"

namespace edgewise::cpu {
namespace {

constexpr int kMaxExperts = 1024;

int64_t columns_of(const Graph& graph, ValueId id) { return graph.value(id).shape.back(); }

// Deals rows to workers and calls row() for each.
class RowOp : public CpuOp {
 public:
  Sharing sharing(int, int) const override { return Sharing::kRows; }
  bool may_share_rows() const override { return true; }
  void run(const StepContext& context, int worker, int workers) noexcept override {
    const Range share = share_of(context.count(of_rows), worker, workers);
    for (int64_t i = share.begin; i < share.end; ++i) row(context, i);
  }

 protected:
  virtual void row(const StepContext& context, int64_t i) noexcept = 0;
};

class EmbeddingOp final : public RowOp {
 public:
  EmbeddingOp(const BuildContext& context, const Node& node)
      : table_(context.graph->constant(node.inputs[1])), out_(node.outputs[0]) {
    vocabulary_ = table_.dim(0);
    columns_ = table_.dim(1);
    block_ = columns_;
    if (node.inputs.size() > 2 && node.inputs[2] != kNone) {
      scale_ = context.graph->constant(node.inputs[2]);
      block_ = node.integer("block");
      global_scale_ = static_cast<float>(node.number("global_scale", 1.0));
      if (node.inputs[3] != kNone) zero_ = context.graph->constant(node.inputs[3]);
    }
  }
  size_t weight_bytes() const override { return table_.bytes().size() + scale_.bytes().size() + zero_.bytes().size(); }

 private:
  void row(const StepContext& context, int64_t i) noexcept override {
    const int64_t token = std::clamp<int64_t>(context.input->tokens[static_cast<size_t>(i)], 0, vocabulary_ - 1);
    float* out = context.values[out_] + i * columns_;
    to_float(table_.dtype(), table_.bytes(), static_cast<size_t>(token * columns_),
             {out, static_cast<size_t>(columns_)});
    if (scale_.empty()) return;
    const int64_t blocks = (columns_ + block_ - 1) / block_;
    for (int64_t b = 0; b < blocks; ++b) {
      const auto at = static_cast<size_t>(token * blocks + b);
      float scale = 1;
      float zero = 0;
      to_float(scale_.dtype(), scale_.bytes(), at, {&scale, 1});
      if (!zero_.empty()) to_float(zero_.dtype(), zero_.bytes(), at, {&zero, 1});
      const int64_t end = std::min((b + 1) * block_, columns_);
      for (int64_t j = b * block_; j < end; ++j) out[j] = (out[j] - zero) * scale * global_scale_;
    }
  }

  Tensor table_;
  Tensor scale_;
  Tensor zero_;
  ValueId out_;
  int64_t vocabulary_ = 0;
  int64_t columns_ = 0;
  int64_t block_ = 0;
  float global_scale_ = 1;
};

// kRmsNorm, kLayerNorm, kAddRmsNorm.
class NormOp final : public RowOp {
 public:
  NormOp(const BuildContext& context, const Node& node)
      : kernels_(vector_kernels(context.isa)), op_(node.op), inputs_(node.inputs), outputs_(node.outputs) {
    const bool add = op_ == Op::kAddRmsNorm;
    columns_ = columns_of(*context.graph, node.inputs[0]);
    weight_ = float_constant(*context.graph, node, add ? 2 : 1);
    if (op_ == Op::kLayerNorm) bias_ = float_constant(*context.graph, node, 2);
    epsilon_ = static_cast<float>(node.number("epsilon"));
    run_ = weight_.count();
  }
  size_t weight_bytes() const override { return weight_.bytes().size() + bias_.bytes().size(); }

 private:
  void row(const StepContext& context, int64_t i) noexcept override {
    const float* x = context.values[inputs_[0]] + i * columns_;
    if (op_ == Op::kAddRmsNorm) {
      float* sum = context.values[outputs_[0]] + i * columns_;
      kernels_.add(x, context.values[inputs_[1]] + i * columns_, columns_, sum);
      x = sum;
    }
    float* out = context.values[outputs_.back()] + i * columns_;
    const float* weight = weight_.as<float>().data();
    const float* bias = bias_.empty() ? nullptr : bias_.as<float>().data();
    for (int64_t j = 0; j < columns_; j += run_) {
      if (op_ == Op::kLayerNorm) {
        kernels_.layer_norm(x + j, weight, bias, run_, epsilon_, out + j);
      } else {
        kernels_.rms_norm(x + j, weight, run_, epsilon_, out + j);
      }
    }
  }

  const VectorKernels& kernels_;
  Op op_;
  std::vector<ValueId> inputs_;
  std::vector<ValueId> outputs_;
  Tensor weight_;
  Tensor bias_;
  int64_t columns_ = 0;
  int64_t run_ = 0;
  float epsilon_ = 0;
};

class RotaryTableOp final : public RowOp {
 public:
  RotaryTableOp(const BuildContext& context, const Node& node)
      : inv_freq_(float_constant(*context.graph, node, 1)),
        long_inv_freq_(float_constant(*context.graph, node, 2)),
        cos_(node.outputs[0]),
        sin_(node.outputs[1]) {
    scale_ = static_cast<float>(node.number("scale", 1.0));
    long_scale_ = static_cast<float>(node.number("long_scale", scale_));
    threshold_ = node.integer("threshold", INT64_MAX);
  }

 private:
  void row(const StepContext& context, int64_t i) noexcept override {
    bool is_long = false;
    for (const SequenceSlice& sequence : context.input->sequences) {
      if (i < sequence.first_token || i >= sequence.first_token + sequence.token_count) continue;
      is_long = !long_inv_freq_.empty() && sequence.context_length > threshold_;
    }
    const auto frequencies = (is_long ? long_inv_freq_ : inv_freq_).as<float>();
    const float factor = is_long ? long_scale_ : scale_;
    const auto position = static_cast<float>(context.input->positions[static_cast<size_t>(i)]);
    const auto columns = static_cast<int64_t>(frequencies.size());
    for (int64_t j = 0; j < columns; ++j) {
      // The angle is rounded to float32 as in transformers; its cosine is not.
      const double angle = position * frequencies[static_cast<size_t>(j)];
      context.values[cos_][i * columns + j] = static_cast<float>(std::cos(angle)) * factor;
      context.values[sin_][i * columns + j] = static_cast<float>(std::sin(angle)) * factor;
    }
  }

  Tensor inv_freq_;
  Tensor long_inv_freq_;
  ValueId cos_;
  ValueId sin_;
  float scale_;
  float long_scale_;
  int64_t threshold_;
};

class RotaryOp final : public RowOp {
 public:
  RotaryOp(const BuildContext& context, const Node& node)
      : kernels_(vector_kernels(context.isa)),
        inputs_(node.inputs),
        out_(node.outputs[0]),
        heads_(node.integer("heads")),
        head_dim_(node.integer("head_dim")),
        half_(node.integer("rotary_dim") / 2),
        interleaved_(node.integer("interleaved", 0) != 0) {}

 private:
  void row(const StepContext& context, int64_t i) noexcept override {
    const float* x = context.values[inputs_[0]] + i * heads_ * head_dim_;
    float* out = context.values[out_] + i * heads_ * head_dim_;
    const float* cos = context.values[inputs_[1]] + i * half_;
    const float* sin = context.values[inputs_[2]] + i * half_;
    const auto rotate = interleaved_ ? kernels_.rotate_pairs : kernels_.rotate_half;
    for (int64_t head = 0; head < heads_; ++head, x += head_dim_, out += head_dim_) {
      rotate(x, cos, sin, half_, out);
      std::copy(x + 2 * half_, x + head_dim_, out + 2 * half_);
    }
  }

  const VectorKernels& kernels_;
  std::vector<ValueId> inputs_;
  ValueId out_;
  int64_t heads_;
  int64_t head_dim_;
  int64_t half_;
  bool interleaved_;
};

// Element by element: deals out rows, or columns when there are fewer rows than workers.
class ElementwiseOp final : public CpuOp {
 public:
  ElementwiseOp(const BuildContext& context, const Node& node)
      : kernels_(vector_kernels(context.isa)), op_(node.op), inputs_(node.inputs), out_(node.outputs[0]) {
    columns_ = columns_of(*context.graph, out_);
    if (inputs_.size() > 1 && context.graph->value(inputs_[1]).is_constant()) {
      constant_ = float_constant(*context.graph, node, 1);
    }
    if (op_ == Op::kScale) number_ = static_cast<float>(node.number("factor"));
    if (op_ == Op::kSoftcap) number_ = static_cast<float>(node.number("cap"));
    tanh_ = node.text("approximate", "none") == "tanh";
  }
  Sharing sharing(int count, int workers) const override { return count >= workers ? Sharing::kRows : Sharing::kOther; }
  bool may_share_rows() const override { return true; }
  size_t weight_bytes() const override { return constant_.bytes().size(); }

  void run(const StepContext& context, int worker, int workers) noexcept override {
    const int count = context.count(of_rows);
    if (count >= workers) {
      const Range share = share_of(count, worker, workers);
      for (int64_t i = share.begin; i < share.end; ++i) part(context, i, 0, columns_);
      return;
    }
    const Range share = share_of(columns_, worker, workers, 64);
    for (int64_t i = 0; i < count; ++i) part(context, i, share.begin, share.end);
  }

 private:
  void part(const StepContext& context, int64_t row, int64_t begin, int64_t end) noexcept {
    const int64_t at = row * columns_ + begin;
    const float* a = context.values[inputs_[0]] + at;
    float* out = context.values[out_] + at;
    const float* b = nullptr;
    if (!constant_.empty()) {
      b = constant_.as<float>().data() + begin;
    } else if (inputs_.size() > 1) {
      b = context.values[inputs_[1]] + at;
    }
    const int64_t n = end - begin;
    switch (op_) {
      case Op::kAdd:
        return kernels_.add(a, b, n, out);
      case Op::kMul:
        return kernels_.mul(a, b, n, out);
      case Op::kScale:
        return kernels_.scale(a, number_, n, out);
      case Op::kSilu:
        return kernels_.silu(a, n, out);
      case Op::kGelu:
        return (tanh_ ? kernels_.gelu_tanh : kernels_.gelu_erf)(a, n, out);
      case Op::kRelu:
        return kernels_.relu(a, n, out);
      case Op::kSquare:
        return kernels_.mul(a, a, n, out);
      case Op::kSoftcap:
        return kernels_.softcap(a, number_, n, out);
      case Op::kSwiGlu:
        return kernels_.swiglu(a, b, n, out);
      default:
        return (tanh_ ? kernels_.geglu_tanh : kernels_.geglu_erf)(a, b, n, out);
    }
  }

  const VectorKernels& kernels_;
  Op op_;
  std::vector<ValueId> inputs_;
  ValueId out_;
  Tensor constant_;
  int64_t columns_ = 0;
  float number_ = 0;
  bool tanh_ = false;
};

class GatherColumnsOp final : public RowOp {
 public:
  GatherColumnsOp(const BuildContext& context, const Node& node)
      : x_(node.inputs[0]), out_(node.outputs[0]), in_columns_(columns_of(*context.graph, x_)) {
    for (const int64_t index : context.graph->constant(node.inputs[1]).to_int64()) {
      if (index < 0 || index >= in_columns_)
        bad_file("{}: column {} of {} does not exist", node.name, index, in_columns_);
      index_.push_back(static_cast<int32_t>(index));
    }
  }

 private:
  void row(const StepContext& context, int64_t i) noexcept override {
    const float* x = context.values[x_] + i * in_columns_;
    float* out = context.values[out_] + i * static_cast<int64_t>(index_.size());
    for (size_t j = 0; j < index_.size(); ++j) out[j] = x[index_[j]];
  }

  ValueId x_;
  ValueId out_;
  int64_t in_columns_;
  std::vector<int32_t> index_;
};

void softmax(float* x, int64_t count) {
  const float largest = *std::max_element(x, x + count);
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    x[i] = std::exp(x[i] - largest);
    sum += static_cast<double>(x[i]);
  }
  for (int64_t i = 0; i < count; ++i) x[i] = static_cast<float>(static_cast<double>(x[i]) / sum);
}

class RouteOp final : public RowOp {
 public:
  RouteOp(const BuildContext& context, const Node& node)
      : x_(node.inputs[0]),
        out_(node.outputs[0]),
        experts_(columns_of(*context.graph, x_)),
        top_k_(node.integer("top_k")),
        before_(node.text("softmax", "before") == "before"),
        normalize_(node.integer("normalize", 0) != 0) {
    if (experts_ > kMaxExperts)
      unsupported("{}: {} experts, at most {} are implemented", node.name, experts_, kMaxExperts);
  }

 private:
  void row(const StepContext& context, int64_t i) noexcept override {
    std::array<float, kMaxExperts> values;
    std::array<float, kMaxExperts> chosen;
    std::array<int32_t, kMaxExperts> order;
    const float* x = context.values[x_] + i * experts_;
    std::copy(x, x + experts_, values.begin());
    if (before_) softmax(values.data(), experts_);
    for (int64_t j = 0; j < top_k_; ++j) {  // the first of equal ones wins
      const auto best = std::max_element(values.begin(), values.begin() + experts_);
      order[static_cast<size_t>(j)] = static_cast<int32_t>(best - values.begin());
      chosen[static_cast<size_t>(j)] = *best;
      *best = -std::numeric_limits<float>::infinity();
    }
    if (!before_) softmax(chosen.data(), top_k_);
    float sum = 0;
    for (int64_t j = 0; j < top_k_; ++j) sum += chosen[static_cast<size_t>(j)];
    float* out = context.values[out_] + i * experts_;
    std::fill(out, out + experts_, 0.0f);
    for (int64_t j = 0; j < top_k_; ++j) {
      const float weight = chosen[static_cast<size_t>(j)];
      out[order[static_cast<size_t>(j)]] = normalize_ ? weight / sum : weight;
    }
  }

  ValueId x_;
  ValueId out_;
  int64_t experts_;
  int64_t top_k_;
  bool before_;
  bool normalize_;
};

class ConcatOp final : public RowOp {
 public:
  ConcatOp(const BuildContext& context, const Node& node) : inputs_(node.inputs), out_(node.outputs[0]) {
    for (const ValueId id : inputs_) columns_.push_back(columns_of(*context.graph, id));
    total_ = columns_of(*context.graph, out_);
  }

 private:
  void row(const StepContext& context, int64_t i) noexcept override {
    float* out = context.values[out_] + i * total_;
    for (size_t part = 0; part < inputs_.size(); ++part)
      out = std::copy_n(context.values[inputs_[part]] + i * columns_[part], columns_[part], out);
  }

  std::vector<ValueId> inputs_;
  ValueId out_;
  std::vector<int64_t> columns_;  // of each input
  int64_t total_;
};

class SelectRowsOp final : public CpuOp {
 public:
  SelectRowsOp(const BuildContext& context, const Node& node)
      : x_(node.inputs[0]), out_(node.outputs[0]), columns_(columns_of(*context.graph, x_)) {}
  void run(const StepContext& context, int worker, int workers) noexcept override {
    const Range share = share_of(context.rows, worker, workers);
    for (int64_t i = share.begin; i < share.end; ++i) {
      const float* from = context.values[x_] + int64_t{context.input->logits_rows[static_cast<size_t>(i)]} * columns_;
      std::copy(from, from + columns_, context.values[out_] + i * columns_);
    }
  }

 private:
  ValueId x_;
  ValueId out_;
  int64_t columns_;
};

}  // namespace

std::unique_ptr<CpuOp> make_row_op(const BuildContext& context, const Node& node) {
  switch (node.op) {
    case Op::kEmbedding:
      return std::make_unique<EmbeddingOp>(context, node);
    case Op::kRmsNorm:
    case Op::kLayerNorm:
    case Op::kAddRmsNorm:
      return std::make_unique<NormOp>(context, node);
    case Op::kRotaryTable:
      return std::make_unique<RotaryTableOp>(context, node);
    case Op::kRotary:
      return std::make_unique<RotaryOp>(context, node);
    case Op::kGatherColumns:
      return std::make_unique<GatherColumnsOp>(context, node);
    case Op::kConcat:
      return std::make_unique<ConcatOp>(context, node);
    case Op::kRoute:
      return std::make_unique<RouteOp>(context, node);
    case Op::kSelectRows:
      return std::make_unique<SelectRowsOp>(context, node);
    default:
      return std::make_unique<ElementwiseOp>(context, node);
  }
}

}  // namespace edgewise::cpu
