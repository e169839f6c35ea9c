#include "graph/weight_rows.h"

#include <vector>

#include "base/error.h"

namespace edgewise {
namespace {

Tensor load_input(const Graph& graph, const Node& node, size_t index) {
  if (index >= node.inputs.size() || node.inputs[index] == kNone) return {};
  return graph.constant(node.inputs[index]);
}

void read_span(const Tensor& tensor, int64_t first, std::span<float> out) {
  to_float(tensor.dtype(), tensor.bytes(), static_cast<size_t>(first), out);
}

}  // namespace

WeightRows::WeightRows(const Graph& graph, const Node& node, size_t first)
    : weight_(load_input(graph, node, first)),
      scale_(load_input(graph, node, first + 1)),
      zero_(load_input(graph, node, first + 2)) {
  transposed_ = node.op == Op::kEmbedding || node.integer("transposed", 0) != 0;
  const Shape& shape = weight_.shape();
  check_internal(shape.size() == 2 || shape.size() == 3, "a weight has two or three dimensions");
  const size_t last = shape.size() - 1;
  expert_rows_ = transposed_ ? shape[last - 1] : shape[last];
  k_ = transposed_ ? shape[last] : shape[last - 1];
  n_ = expert_rows_ * (shape.size() == 3 ? shape[0] : 1);
  block_ = scale_.empty() ? k_ : node.integer("block");
  global_scale_ = static_cast<float>(node.number("global_scale", 1.0));
}

void WeightRows::read_transposed(int64_t row, std::span<float> out) const {
  read_span(weight_, row * k_, out);
  if (scale_.empty()) return;
  const int64_t groups = (k_ + block_ - 1) / block_;
  std::vector<float> scales(static_cast<size_t>(groups));
  std::vector<float> zeros(static_cast<size_t>(groups), 0.0f);
  read_span(scale_, row * groups, scales);
  if (!zero_.empty()) read_span(zero_, row * groups, zeros);
  for (int64_t k = 0; k < k_; ++k) {
    const auto group = static_cast<size_t>(k / block_);
    out[static_cast<size_t>(k)] = (out[static_cast<size_t>(k)] - zeros[group]) * scales[group] * global_scale_;
  }
}

void WeightRows::read_columns(int64_t begin, int64_t end, std::span<float> out) const {
  const auto count = static_cast<size_t>(end - begin);
  const int64_t expert = begin / expert_rows_;
  const int64_t column = begin % expert_rows_;
  const int64_t groups = (k_ + block_ - 1) / block_;
  std::vector<float> values(count);
  std::vector<float> scales(count, 1.0f);
  std::vector<float> zeros(count, 0.0f);
  for (int64_t k = 0; k < k_; ++k) {
    if (!scale_.empty() && k % block_ == 0) {
      const int64_t at = (expert * groups + k / block_) * expert_rows_ + column;
      read_span(scale_, at, scales);
      for (float& scale : scales) scale *= global_scale_;
      if (!zero_.empty()) read_span(zero_, at, zeros);
    }
    read_span(weight_, (expert * k_ + k) * expert_rows_ + column, values);
    for (size_t i = 0; i < count; ++i) {
      out[i * static_cast<size_t>(k_) + static_cast<size_t>(k)] = (values[i] - zeros[i]) * scales[i];
    }
  }
}

void WeightRows::read(int64_t begin, int64_t end, std::span<float> out) const {
  check_internal(0 <= begin && begin <= end && end <= n_, "weight rows out of range");
  check_internal(out.size() == static_cast<size_t>((end - begin) * k_), "weight rows: buffer of the wrong size");
  if (transposed_) {
    for (int64_t row = begin; row < end; ++row) {
      read_transposed(row, out.subspan(static_cast<size_t>((row - begin) * k_), static_cast<size_t>(k_)));
    }
    return;
  }
  for (int64_t row = begin; row < end;) {  // a run may cross from one expert's matrix to the next
    const int64_t stop = std::min(end, (row / expert_rows_ + 1) * expert_rows_);
    read_columns(row, stop,
                 out.subspan(static_cast<size_t>((row - begin) * k_), static_cast<size_t>((stop - row) * k_)));
    row = stop;
  }
}

}  // namespace edgewise
