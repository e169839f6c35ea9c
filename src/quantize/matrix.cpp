#include "quantize/matrix.h"

#include <algorithm>

#include "backends/backend.h"
#include "base/error.h"

namespace edgewise {

FloatMatrix transposed(const FloatMatrix& a) {
  FloatMatrix result(a.columns, a.rows);
  constexpr int64_t kTile = 32;
  for (int64_t i0 = 0; i0 < a.rows; i0 += kTile) {
    for (int64_t j0 = 0; j0 < a.columns; j0 += kTile) {
      for (int64_t i = i0; i < std::min(a.rows, i0 + kTile); ++i) {
        for (int64_t j = j0; j < std::min(a.columns, j0 + kTile); ++j) result.at(j, i) = a.at(i, j);
      }
    }
  }
  return result;
}

struct TransposedProduct::Loaded {
  Graph graph;
  std::unique_ptr<Executable> executable;
};

TransposedProduct::TransposedProduct(const FloatMatrix& b, int64_t max_rows)
    : n_(b.rows), loaded_(std::make_unique<Loaded>()) {
  const Backend& backend = find_backend("cpu");
  Graph& graph = loaded_->graph;
  const ValueId x = graph.add_input(std::string(kHiddenInput), DType::kF32, {kTokens, b.columns});
  const ValueId weight = graph.add_constant("b", Tensor::from_floats(DType::kF32, {b.rows, b.columns}, b.data));
  graph.mark_output(graph.add(Op::kLinear, "product", {x, weight, kNone, kNone, kNone}, {{"transposed", int64_t{1}}}));
  backend.pack(graph, 0);
  loaded_->executable = backend.load(graph, {.max_tokens = static_cast<int>(max_rows), .kv_pages = 1});
}

TransposedProduct::~TransposedProduct() = default;

FloatMatrix TransposedProduct::operator()(const FloatMatrix& a) const {
  FloatMatrix result(a.rows, n_);
  StepInput input;
  input.hidden = a.data;
  const StepOutcome outcome = loaded_->executable->run(input, result.data);
  if (outcome != StepOutcome::kDone) fail(ErrorKind::kInternal, "a matrix product failed: {}", outcome_name(outcome));
  return result;
}

}  // namespace edgewise
