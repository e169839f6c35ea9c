#include "compiler/self_test.h"

#include <algorithm>
#include <cmath>

#include "backends/sequence_runner.h"
#include "base/error.h"
#include "base/relative_distance.h"

namespace edgewise {
namespace {

constexpr int kPromptTokens = 6;

std::vector<float> first_logits(const Graph& graph, const Backend& backend, DType kv_dtype) {
  const int64_t vocabulary = graph.value(graph.outputs().at(0)).shape.at(1);
  const auto executable = backend.load(
      graph, {.max_tokens = kPromptTokens, .max_rows = kPromptTokens, .kv_pages = 1, .kv_dtype = kv_dtype});
  SequenceRunner runner(*executable, vocabulary, kPromptTokens, kPromptTokens + 1);
  std::vector<int32_t> tokens;
  for (int i = 0; i < kPromptTokens - 1; ++i) tokens.push_back(static_cast<int32_t>((i * 7919 + 11) % vocabulary));
  const ValueId input = graph.find_value(kHiddenInput);
  std::vector<float> hidden(input == kNone ? 0 : static_cast<size_t>(kPromptTokens * graph.value(input).shape.at(1)));
  for (size_t i = 0; i < hidden.size(); ++i) hidden[i] = std::sin(static_cast<float>(i));  // any numbers
  const size_t prompt = hidden.size() / kPromptTokens * tokens.size();
  auto logits = runner.append(tokens, 1, std::span(hidden).first(prompt));  // a prefill, and a decode step on its cache
  const auto next = runner.append({static_cast<int32_t>(101 % vocabulary)}, 1, std::span(hidden).subspan(prompt));
  logits.insert(logits.end(), next.begin(), next.end());
  return logits;
}

}  // namespace

double self_test_error(const Graph& plain, const Engine& engine, const Backend& backend) {
  const auto expected = first_logits(plain, find_backend("reference"), engine.info.kv_dtype);
  const auto found = first_logits(engine.graph, backend, engine.info.kv_dtype);
  if (!std::ranges::all_of(found, [](float value) { return std::isfinite(value); })) return INFINITY;
  return relative_distance(found, expected);
}

double self_test_tolerance(const Graph& plain, DType kv_dtype) {
  bool integers = false;
  for (const Node& node : plain.nodes()) {
    if (node.op == Op::kLinear && !is_float(plain.value(node.inputs[1]).dtype)) integers = true;
  }
  if (integers) return 0.05;
  return kv_dtype == DType::kF32 ? 1e-3 : 1e-2;
}

}  // namespace edgewise
