// One token from logits.
#include "runtime/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "backends/backend.h"
#include "backends/best_rows.h"

namespace edgewise {
namespace {

TEST(Sampler, GreedyIsTheFirstLargest) {
  std::vector<float> logits{1, 5, 5, 2};
  EXPECT_EQ(Sampler({}, 4, {}).sample(logits), 1);
}

TEST(Sampler, WhatIsNoNumberIsNotTheLargest) {
  for (const size_t size : {3u, 64u, 200u}) {
    std::vector<float> logits(size, NAN);
    EXPECT_EQ(argmax(logits), 0);
    logits[2] = -INFINITY;
    EXPECT_EQ(argmax(logits), 2);
    logits[1] = -0.0f;
    logits[2] = 0.0f;
    EXPECT_EQ(argmax(logits), 1);
    logits[size - 1] = INFINITY;
    EXPECT_EQ(argmax(logits), static_cast<int32_t>(size - 1));
  }
}

// As from weights that are not numbers: some token, and no crash.
TEST(Sampler, LogitsThatAreNoNumbers) {
  SamplingOptions options;
  options.temperature = 1;
  options.num_logprobs = 2;
  for (const float logit : {NAN, INFINITY, -INFINITY}) {
    for (const bool mixed : {false, true}) {
      std::vector<float> logits(9, logit);
      if (mixed) logits[4] = 1;
      const int32_t token = Sampler(options, 9, {}).sample(logits);
      EXPECT_TRUE(token >= 0 && token < 9) << token;
    }
  }
}

// Frequencies of many draws against the probabilities that the options leave.
TEST(Sampler, DrawsFromTheTruncatedDistribution) {
  SamplingOptions options;
  options.temperature = 1;
  options.seed = 11;
  options.top_k = 3;
  const std::vector<float> logits{2.0f, 1.0f, 0.0f, -1.0f, 1.5f};
  std::vector<int> counts(5, 0);
  Sampler sampler(options, 5, {});
  for (int i = 0; i < 30000; ++i) {
    auto copy = logits;
    ++counts[static_cast<size_t>(sampler.sample(copy))];
  }
  EXPECT_EQ(counts[2] + counts[3], 0);
  EXPECT_NEAR(counts[0] / 30000.0, 0.5065, 0.015);
  EXPECT_NEAR(counts[4] / 30000.0, 0.3072, 0.015);
}

// What sorting all of them would leave, in double.
std::vector<double> probabilities(const std::vector<float>& logits, const DrawRule& rule) {
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  std::vector<double> weights(logits.size(), 0);
  const auto weight = [&](size_t i) {
    const double power = (double{logits[i]} - double{logits[order[0]]}) / rule.temperature;
    return rule.min_p > 0 && power < std::log(rule.min_p) ? 0 : std::exp(power);
  };
  if (rule.top_k > 0) order.resize(std::min(order.size(), static_cast<size_t>(rule.top_k)));
  double total = 0;
  for (const size_t i : order) total += weight(i);
  double kept = 0;
  for (const size_t i : order) {
    if (kept >= rule.top_p * total && kept > 0) break;
    kept += weights[i] = weight(i);
  }
  for (double& w : weights) w /= kept;
  return weights;
}

// Each token is drawn for as large a part of the numbers from 0 to 1 as it is probable.
TEST(Draw, GivesTokensTheirShare) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  constexpr DrawRule kRules[] = {{1, 1, 0, 0},     {0.3, 1, 0, 0},  {1, 1, 1, 0},         {1, 1, 50, 0},
                                 {2, 1, 3000, 0},  {1, 0.9, 0, 0},  {0.7, 0.3, 0, 0},     {1.5, 0.999, 0, 0},
                                 {1, 0.8, 40, 0},  {1, 1, 0, 0.05}, {0.8, 0.95, 20, 0.1}, {100, 0.5, 0, 0},
                                 {0.01, 0.9, 5, 0}};
  for (const size_t size : {1u, 5u, 64u, 130u, 3000u, 20003u}) {
    for (const float spread : {0.1f, 3.0f, 20.0f}) {
      std::vector<float> logits(size);
      for (float& logit : logits) logit = normal(random) * spread;
      for (size_t i = 3; i < size; i += 7) logits[i] = -INFINITY;
      Draw draw(size);
      for (const DrawRule& rule : kRules) {
        constexpr int kDraws = 200;
        std::vector<int> counts(size, 0);
        for (int i = 0; i < kDraws; ++i) ++counts[static_cast<size_t>(draw.draw(logits, rule, (i + 0.5) / kDraws))];
        const std::vector<double> expected = probabilities(logits, rule);
        for (size_t i = 0; i < size; ++i)
          ASSERT_LT(std::fabs(counts[i] - expected[i] * kDraws), 1.01)
              << "token " << i << " of " << size << ", spread " << spread << ", temperature " << rule.temperature
              << ", top_p " << rule.top_p << ", top_k " << rule.top_k << ", min_p " << rule.min_p;
      }
    }
  }
}

TEST(Draw, LargestOfEqualsAreTheFirst) {
  std::mt19937 random(3);
  for (const size_t size : {4u, 100u, 3000u}) {
    std::vector<float> logits(size);
    for (float& logit : logits) logit = static_cast<float>(random() % 5);
    Draw draw(size);
    double sum = 0;
    for (const float logit : logits) sum += std::exp(double{logit});
    const float log_sum = draw.log_sum(logits);
    EXPECT_NEAR(log_sum, std::log(sum), 1e-5);
    std::vector<int32_t> order(size);
    std::iota(order.begin(), order.end(), 0);
    const auto logit = [&](int32_t i) { return logits[static_cast<size_t>(i)]; };
    std::ranges::stable_sort(order, [&](int32_t a, int32_t b) { return logit(a) > logit(b); });
    const auto largest = draw.largest(logits, 20, log_sum);
    ASSERT_EQ(largest.size(), std::min<size_t>(size, 20));
    for (size_t i = 0; i < largest.size(); ++i) {
      EXPECT_EQ(largest[i].token, order[i]);
      EXPECT_EQ(largest[i].logprob, logit(order[i]) - log_sum);
    }
  }
}

// Also where the probabilities of all tokens that are allowed round to nothing.
TEST(Sampler, DrawsFromWhatIsAllowed) {
  for (const double temperature : {0.0, 0.01, 1.0, 100.0}) {
    SamplingOptions options;
    options.temperature = temperature;
    options.seed = 3;
    options.num_logprobs = 1;
    Sampler sampler(options, 130, {});
    for (int i = 0; i < 300; ++i) {
      std::vector<float> logits(130, 0.0f);
      logits[5] = 1e30f;
      const std::vector<uint64_t> allowed{uint64_t{1} << 7, 0, 2};
      const int32_t token = sampler.sample(logits, allowed);
      ASSERT_TRUE(token == 7 || token == 129) << token;
      EXPECT_EQ(sampler.last_alternatives()[0].token, 5);  // as the model would have it
    }
  }
}

TEST(Sampler, PenaltiesBiasAndLogprobs) {
  SamplingOptions options;
  options.logit_bias = {{2, 100.0f}};
  options.num_logprobs = 2;
  std::vector<float> logits{3, 2, 1};
  Sampler sampler(options, 3, {});
  EXPECT_EQ(sampler.sample(logits), 2);
  EXPECT_NEAR(sampler.last_logprob(), -2.4076f, 1e-3);  // under the model, bias left out
  EXPECT_EQ(sampler.last_alternatives()[0].token, 0);
  SamplingOptions repeat;
  repeat.repetition_penalty = 4;
  std::vector<float> again{3, 2, 1};
  EXPECT_EQ(Sampler(repeat, 3, std::vector<int32_t>{0}).sample(again), 1);
}

// Token by token, against what the options say.
TEST(Sampler, PenaltiesCountWhatWasSeen) {
  constexpr size_t kTokens = 40;
  SamplingOptions options;
  options.repetition_penalty = 1.3;
  options.presence_penalty = 0.5;
  options.frequency_penalty = 0.25;
  options.logit_bias = {{7, -2.0f}, {11, 1.0f}};
  const std::vector<int32_t> prompt{3, 9, 11, 3};
  Sampler sampler(options, kTokens, prompt);
  std::vector<int> generated(kTokens, 0);
  std::vector<bool> seen(kTokens, false);
  for (const int32_t token : prompt) seen[static_cast<size_t>(token)] = true;
  std::mt19937 random(5);
  for (int step = 0; step < 200; ++step) {
    std::vector<float> logits(kTokens);
    for (float& logit : logits) logit = static_cast<float>(random() % 100000) / 1e4f - 3;
    std::vector<double> expected;
    for (size_t i = 0; i < kTokens; ++i) {
      double logit = double{logits[i]};
      if (seen[i]) logit = logit > 0 ? logit / 1.3 : logit * 1.3;
      if (generated[i] > 0) logit -= 0.5 + 0.25 * generated[i];
      expected.push_back(logit + (i == 7 ? -2 : i == 11 ? 1 : 0));
    }
    RowDraw draw;
    ASSERT_EQ(sampler.ask(1, {}, draw), kKeepLogits);  // another token would come first
    ASSERT_EQ(sampler.ask(0, {}, draw), kDraw);
    EXPECT_EQ(draw.rule.temperature, 0);
    EXPECT_TRUE(std::ranges::is_sorted(draw.changes, {}, &LogitChange::index));
    const int32_t token = sampler.sample(logits);
    ASSERT_EQ(token, std::ranges::max_element(expected) - expected.begin()) << step;
    seen[static_cast<size_t>(token)] = true;
    ++generated[static_cast<size_t>(token)];
  }
}

// Whoever takes what was drawn elsewhere draws on with the same numbers.
TEST(Sampler, AsksForWhatItWouldDraw) {
  SamplingOptions options;
  options.temperature = 1;
  options.top_k = 20;
  options.seed = 9;
  Sampler here(options, 50, {});
  Sampler there(options, 50, {});
  Draw draw(50);
  std::mt19937 random(2);
  for (int step = 0; step < 50; ++step) {
    std::vector<float> logits(50);
    for (float& logit : logits) logit = static_cast<float>(random() % 1000) / 200;
    RowDraw asked;
    ASSERT_EQ(there.ask(0, {}, asked), kDraw);
    RowDraw next;
    there.ask(1, {}, next);
    const int32_t index = draw.draw(logits, asked.rule, asked.uniform);
    EXPECT_EQ(there.take(index), here.sample(logits));
    RowDraw after;
    there.ask(0, {}, after);
    EXPECT_EQ(next.uniform, after.uniform);
  }
}

}  // namespace
}  // namespace edgewise
