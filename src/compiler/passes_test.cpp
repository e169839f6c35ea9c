// Passes by text in, text out.
#include "compiler/passes.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace edgewise {
namespace {

constexpr std::string_view kBlock = R"(graph block
input %tokens : i32[tokens]
const %table : f32[32, 8]
const %norm : f32[8]
const %gate_w : f32[16, 8]
const %up_w : f32[16, 8]
const %down_w : f32[8, 16]
const %down_b : f32[8]
%x = embedding(%tokens, %table) : f32[tokens, 8]
%x2 = scale(%x) {factor=2.0} : f32[tokens, 8]
%sum = add(%x, %x2) : f32[tokens, 8]
%n = rms_norm(%sum, %norm) {epsilon=1e-06} : f32[tokens, 8]
%m.gate = linear(%n, %gate_w, %none, %none, %none) {transposed=1} : f32[tokens, 16]
%m.up = linear(%n, %up_w, %none, %none, %none) {transposed=1} : f32[tokens, 16]
%act = silu(%m.gate) : f32[tokens, 16]
%p = mul(%act, %m.up) : f32[tokens, 16]
%down = linear(%p, %down_w, %none, %none, %none) {transposed=1} : f32[tokens, 8]
%down.biased = add(%down, %down_b) : f32[tokens, 8]
%y = add(%sum, %down.biased) : f32[tokens, 8]
%f = rms_norm(%y, %norm) {epsilon=1e-06} : f32[tokens, 8]
%logits = linear(%f, %table, %none, %none, %none) {transposed=1} : f32[tokens, 32]
output %logits
)";

TEST(Passes, RewriteTheBlock) {
  Graph graph = parse_graph(kBlock);
  const auto reports = run_passes(graph, {});
  for (const PassReport& report : reports) EXPECT_EQ(report.changes, 1) << report.name;
  EXPECT_EQ(print_graph(graph), R"(graph block
input %tokens : i32[tokens]
const %table : f32[32, 8]
const %norm : f32[8]
const %gate_w : f32[16, 8]
const %up_w : f32[16, 8]
const %down_w : f32[8, 16]
const %down_b : f32[8]
%x = embedding(%tokens, %table) : f32[tokens, 8]
%x2 = scale(%x) {factor=2.0} : f32[tokens, 8]
%n.residual:0, %n.residual:1 = add_rms_norm(%x, %x2, %norm) {epsilon=1e-06} : f32[tokens, 8]
%m.gate+up:0, %m.gate+up:1 = linear(%n.residual:1, %gate_w, %none, %none, %none, %up_w, %none, %none, %none) {modules="m.gate m.up", transposed=1} : f32[tokens, 16]
%p.gated = swiglu(%m.gate+up:0, %m.gate+up:1) : f32[tokens, 16]
%down = linear(%p.gated, %down_w, %none, %none, %down_b) {transposed=1} : f32[tokens, 8]
%y = add(%n.residual:0, %down) : f32[tokens, 8]
%logits_rows = select_rows(%y) : f32[rows, 8]
%f = rms_norm(%logits_rows, %norm) {epsilon=1e-06} : f32[rows, 8]
%logits = linear(%f, %table, %none, %none, %none) {transposed=1} : f32[rows, 32]
output %logits
)");
}

TEST(Passes, CanBeSwitchedOff) {
  Graph graph = parse_graph(kBlock);
  std::set<std::string> all;
  for (const Pass& pass : passes()) all.emplace(pass.name);
  EXPECT_TRUE(run_passes(graph, all).empty());
  EXPECT_EQ(print_graph(graph), kBlock);
  EXPECT_THROW(run_passes(graph, {"no_such_pass"}), Error);
}

}  // namespace
}  // namespace edgewise
