// One token from logits.
#include "runtime/sampler.h"

#include <gtest/gtest.h>

#include <cmath>

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

}  // namespace
}  // namespace edgewise
