#include "graph/graph.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace edgewise {
namespace {

constexpr std::string_view kText = R"(graph demo
input %tokens : i32[tokens]
const %table : bf16[10, 4]
const %norm : f32[4]
const %w : i4[6, 4]
const %s : f32[6, 2]
%x = embedding(%tokens, %table) : bf16[tokens, 4]
%n = rms_norm(%x, %norm) {epsilon=1e-06} : bf16[tokens, 4]
%p:0, %p:1 = linear(%n, %w, %s, %none, %none, %w, %s, %none, %none) {block=2, transposed=1} : bf16[tokens, 6]
%g = swiglu(%p:0, %p:1) : bf16[tokens, 6]
output %g
)";

TEST(Graph, TextRoundTrips) {
  const Graph graph = parse_graph(kText);
  verify_graph(graph);
  EXPECT_EQ(print_graph(graph), kText);
}

TEST(Graph, CompactDropsTheDeadAndSorts) {
  Graph graph = parse_graph(kText);
  graph.add(Op::kSilu, "unused", {graph.find_value("g")});
  const ValueId scaled = graph.add(Op::kScale, "scaled", {graph.find_value("x")}, {{"factor", 2.0}});
  // Reading the new value from an earlier node breaks the order until compact() mends it.
  for (Node& node : graph.nodes()) {
    if (node.op == Op::kRmsNorm) node.inputs[0] = scaled;
  }
  EXPECT_THROW(verify_graph(graph), Error);
  graph.compact();
  verify_graph(graph);
  EXPECT_EQ(graph.find_value("unused"), kNone);
  EXPECT_EQ(graph.nodes().size(), 5u);
}

TEST(Graph, RefusesWhatDoesNotFit) {
  Graph graph = parse_graph(kText);
  const ValueId x = graph.find_value("x");
  EXPECT_THROW(graph.add(Op::kAdd, "a", {x, graph.find_value("g")}), Error);
  EXPECT_THROW(graph.add(Op::kRmsNorm, "r", {x, graph.find_value("norm")}), Error);  // no epsilon
  EXPECT_THROW(
      graph.add(Op::kAttention, "t", {x, x, x},
                {{"layer", int64_t{0}}, {"head_dim", int64_t{2}}, {"q_heads", int64_t{3}}, {"kv_heads", int64_t{1}}}),
      Error);
}

TEST(Graph, BadTextNamesTheLine) {
  for (const char* text : {"input tokens", "%x = nothing() : f32[1]", "output %a", "const %a : q8[1]",
                           "const %a : f32[-1]", "input %t : i32[tokens]\n%x = silu(%t) : f32[tokens]"}) {
    EXPECT_THROW(parse_graph(text), Error) << text;
  }
}

}  // namespace
}  // namespace edgewise
