#include "quantize/matrix.h"

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

FloatMatrix product_transposed(const FloatMatrix& a, const FloatMatrix& b) {
  check_internal(a.columns == b.columns, "product of matrices that do not fit");
  const Backend& backend = find_backend("cpu");
  Graph graph;
  const ValueId x = graph.add_input("inputs_embeds", DType::kF32, {kTokens, a.columns});
  const ValueId weight = graph.add_constant("b", Tensor::from_floats(DType::kF32, {b.rows, b.columns}, b.data));
  graph.mark_output(graph.add(Op::kLinear, "product", {x, weight, kNone, kNone, kNone}, {{"transposed", int64_t{1}}}));
  backend.pack(graph, 0);
  const auto executable = backend.load(graph, {.max_tokens = static_cast<int>(a.rows), .kv_pages = 1});
  FloatMatrix result(a.rows, b.rows);
  StepInput input;
  input.embeddings = a.data;
  const StepOutcome outcome = executable->run(input, result.data);
  if (outcome != StepOutcome::kDone) fail(ErrorKind::kInternal, "a matrix product failed: {}", outcome_name(outcome));
  return result;
}

}  // namespace edgewise
