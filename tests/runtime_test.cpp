// The scheduler over a real model: answers do not depend on company or on chunks, and a step allocates nothing.
#include <gtest/gtest.h>

#include "backends/backend.h"
#include "backends/cpu/allocation_count.h"
#include "models/families.h"
#include "runtime/scheduler.h"

namespace edgewise {
namespace {

class RuntimeTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto directory = std::filesystem::path(EDGEWISE_SOURCE_DIR) / "tests/data/checkpoints/qwen3";
    const Checkpoint checkpoint = Checkpoint::open(directory);
    const DecoderSpec spec = describe_model(checkpoint.config(), checkpoint.config_path());
    vocabulary_ = spec.vocabulary;
    graph_ = build_decoder(spec, checkpoint, {DType::kBF16});
    // The head on selected rows, as the compiler arranges it.
    const ValueId logits = graph_.outputs()[0];
    graph_.outputs()[0] = graph_.add(Op::kSelectRows, "rows", {logits});
    const Backend& backend = find_backend("cpu");
    for (size_t i = 0; i < graph_.nodes().size(); ++i) backend.pack(graph_, static_cast<NodeId>(i));
    graph_.compact();
  }

  SchedulerLimits limits(int sequences, int step_tokens) const {
    SchedulerLimits limits;
    limits.vocabulary = vocabulary_;
    limits.max_sequences = sequences;
    limits.max_step_tokens = step_tokens;
    limits.kv_capacity = 256;
    limits.kv_pages = 4 * sequences;
    return limits;
  }
  std::unique_ptr<Executable> load(const SchedulerLimits& l) const {
    return find_backend("cpu").load(graph_, {.max_tokens = l.max_step_tokens,
                                             .max_sequences = l.max_sequences,
                                             .max_rows = l.max_sequences,
                                             .kv_pages = l.kv_pages,
                                             .threads = 2});
  }
  static std::vector<int32_t> prompt(int salt, int length) {
    std::vector<int32_t> ids;
    for (int i = 0; i < length; ++i) ids.push_back((i * 37 + salt * 11 + 3) % 256);
    return ids;
  }
  std::vector<std::vector<int32_t>> run(int sequences, int step_tokens,
                                        const std::vector<std::vector<int32_t>>& prompts,
                                        const SamplingOptions& sampling = {}) const {
    const auto l = limits(sequences, step_tokens);
    const auto executable = load(l);
    Scheduler scheduler(*executable, l, {});
    std::vector<std::unique_ptr<Sequence>> running;
    for (const auto& ids : prompts) {
      running.push_back(std::make_unique<Sequence>(ids, sampling, 20, vocabulary_));
      scheduler.submit(*running.back());
    }
    while (!scheduler.idle()) EXPECT_EQ(scheduler.step(), StepOutcome::kDone);
    std::vector<std::vector<int32_t>> tokens;
    for (const auto& sequence : running) {
      EXPECT_EQ(sequence->finish, FinishReason::kLength);
      tokens.push_back(sequence->tokens);
    }
    return tokens;
  }

  Graph graph_;
  int64_t vocabulary_ = 0;
};

TEST_F(RuntimeTest, AnswersDoNotDependOnCompanyOrChunks) {
  std::vector<std::vector<int32_t>> prompts;
  for (int i = 0; i < 16; ++i) prompts.push_back(prompt(i, 3 + i * 7));
  std::vector<std::vector<int32_t>> alone;
  for (const auto& ids : prompts) alone.push_back(run(1, 128, {ids})[0]);
  EXPECT_EQ(run(16, 128, prompts), alone);
  EXPECT_EQ(run(4, 17, prompts), alone);  // waits for slots, prompts in chunks
  SamplingOptions sampling;
  sampling.temperature = 1.2;
  sampling.top_p = 0.9;
  sampling.seed = 5;
  EXPECT_EQ(run(3, 32, {prompts[1], prompts[2], prompts[3]}, sampling)[0], run(1, 128, {prompts[1]}, sampling)[0]);
}

TEST_F(RuntimeTest, AStepAllocatesNothing) {
  const auto l = limits(2, 64);
  const auto executable = load(l);
  Scheduler scheduler(*executable, l, {});
  SamplingOptions sampling;
  sampling.temperature = 0.8;
  sampling.top_k = 20;
  sampling.top_p = 0.9;
  sampling.repetition_penalty = 1.1;
  Sequence a(prompt(1, 40), sampling, 60, vocabulary_);
  Sequence b(prompt(2, 30), {}, 60, vocabulary_);
  scheduler.submit(a);
  scheduler.submit(b);
  for (int i = 0; i < 4; ++i) scheduler.step();
  const int64_t before = allocation_count();
  for (int i = 0; i < 40; ++i) scheduler.step();
  EXPECT_EQ(allocation_count(), before);
}

TEST_F(RuntimeTest, CancelGivesPagesBack) {
  const auto l = limits(1, 64);
  const auto executable = load(l);
  Scheduler scheduler(*executable, l, {});
  for (int round = 0; round < 5; ++round) {
    Sequence sequence(prompt(round, 200), {}, 50, vocabulary_);
    scheduler.submit(sequence);
    scheduler.step();
    scheduler.cancel(sequence);
    EXPECT_TRUE(scheduler.idle());
    EXPECT_EQ(sequence.finish, FinishReason::kCancelled);
  }
}

TEST(Sampler, GreedyIsTheFirstLargest) {
  std::vector<float> logits{1, 5, 5, 2};
  EXPECT_EQ(Sampler({}, 4, {}).sample(logits), 1);
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
