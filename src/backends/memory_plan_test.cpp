#include "backends/memory_plan.h"

#include <gtest/gtest.h>

#include <random>

namespace edgewise {
namespace {

TEST(MemoryPlan, ChainNeedsTwoBuffers) {
  std::vector<Lifetime> chain;
  for (int i = 0; i < 10; ++i) chain.push_back({1000, i, i + 1});
  EXPECT_EQ(plan_memory(chain).total, 2048u);
}

TEST(MemoryPlan, RandomLivesNeverOverlap) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<Lifetime> lives;
    size_t sum = 0;
    for (int i = 0; i < 40; ++i) {
      const int first = static_cast<int>(random() % 50);
      lives.push_back({random() % 5 == 0 ? 0 : random() % 5000, first, first + static_cast<int>(random() % 10)});
      sum += (lives.back().bytes + 63) / 64 * 64;
    }
    const MemoryPlan plan = plan_memory(lives);
    EXPECT_LE(plan.total, sum);
    for (size_t a = 0; a < lives.size(); ++a) {
      EXPECT_EQ(plan.offsets[a] % 64, 0u);
      EXPECT_LE(plan.offsets[a] + lives[a].bytes, plan.total);
      for (size_t b = 0; b < a; ++b) {
        if (lives[a].bytes == 0 || lives[b].bytes == 0) continue;
        const bool together = lives[a].first <= lives[b].last && lives[b].first <= lives[a].last;
        const bool overlap =
            plan.offsets[a] < plan.offsets[b] + lives[b].bytes && plan.offsets[b] < plan.offsets[a] + lives[a].bytes;
        EXPECT_FALSE(together && overlap);
      }
    }
  }
}

TEST(MemoryPlan, LivesOfAGraph) {
  Graph graph;
  const ValueId tokens = graph.add_input("tokens", DType::kI32, {kTokens});
  const ValueId table = graph.add_constant("table", Tensor::zeros(DType::kF32, {10, 8}));
  const ValueId x = graph.add(Op::kEmbedding, "embed", {tokens, table});
  const ValueId y = graph.add(Op::kSilu, "a", {x});
  const ValueId z = graph.add(Op::kAdd, "b", {x, y});
  const ValueId rows = graph.add(Op::kSelectRows, "rows", {z});
  graph.mark_output(rows);
  const std::vector<int> steps = {0, 1, 2, 3};
  const auto lives = value_lifetimes(graph, steps, 5, 2, 4);
  EXPECT_EQ(lives[static_cast<size_t>(tokens)].bytes, 0u);
  EXPECT_EQ(lives[static_cast<size_t>(x)].bytes, 5u * 8 * 4);
  EXPECT_EQ(lives[static_cast<size_t>(x)].last, 2);
  EXPECT_EQ(lives[static_cast<size_t>(y)].first, 1);
  EXPECT_EQ(lives[static_cast<size_t>(rows)].bytes, 2u * 8 * 4);
  EXPECT_EQ(lives[static_cast<size_t>(rows)].last, 3);
}

}  // namespace
}  // namespace edgewise
