// The scheduler over a real model with random weights.
#pragma once

#include <gtest/gtest.h>

#include "backends/backend.h"
#include "models/families.h"
#include "runtime/prompt_lookup.h"
#include "runtime/scheduler.h"
#include "text/tokenizer.h"
#include "wrapped_executable.h"

namespace edgewise {

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
    const Backend& backend = find_backend(device());
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
    return find_backend(device()).load(graph_, {.max_tokens = l.max_step_tokens,
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
      EXPECT_TRUE(scheduler.submit(*running.back()));
    }
    finish(scheduler);
    std::vector<std::vector<int32_t>> tokens;
    for (const auto& sequence : running) {
      EXPECT_EQ(sequence->finish, FinishReason::kLength);
      tokens.push_back(sequence->tokens);
    }
    return tokens;
  }

  // Steps until nobody is left, with all invariants checked between steps.
  static void finish(Scheduler& scheduler) {
    while (!scheduler.idle()) {
      ASSERT_EQ(scheduler.step(), StepOutcome::kDone);
      ASSERT_EQ(check_invariants(scheduler.snapshot()), "");
    }
  }
  std::vector<int32_t> alone(const std::vector<int32_t>& ids) const { return run(1, 128, {ids})[0]; }

  // Sequences get the same tokens from what their rows choose as from their logits, with guesses too. `draws`: also
  // those that are drawn.
  void compare_picks(bool draws) const {
    std::vector<SamplingOptions> sampling(9);  // the last two write letters
    sampling[1].temperature = 0.8;
    sampling[1].seed = 3;
    sampling[6] = {.temperature = 1.2, .top_p = 0.9, .top_k = 200, .seed = 4};
    sampling[2].repetition_penalty = 1.2;
    sampling[3].num_logprobs = 2;
    sampling[4].logit_bias[5] = 100;
    sampling[8] = sampling[6];
    const Tokenizer tokenizer =
        Tokenizer::load(std::filesystem::path(EDGEWISE_SOURCE_DIR) / "models/edge-tiny-16m/tokenizer.json");
    const auto letters = GrammarCompiler(tokenizer, static_cast<int32_t>(vocabulary_), {2}).compile_regex("[a-z]{90}");
    auto l = limits(6, 64);
    l.weigh_drafts = false;
    const auto answers = [&](bool picks) {
      const auto executable = find_backend(device()).load(graph_, {.max_tokens = l.max_step_tokens,
                                                                   .max_sequences = l.max_sequences,
                                                                   .max_rows = l.max_sequences * 4,
                                                                   .kv_pages = l.kv_pages,
                                                                   .threads = 2});
      PickyExecutable picky(*executable, vocabulary_, picks);
      PromptLookup lookup(3);
      Scheduler scheduler(picky, l, {}, &lookup);
      std::vector<std::unique_ptr<Sequence>> sequences;
      for (size_t i = 0; i < sampling.size(); ++i) {
        auto ids = prompt(static_cast<int>(i), 30);
        ids.insert(ids.end(), ids.begin(), ids.begin() + 30);
        sequences.push_back(std::make_unique<Sequence>(ids, sampling[i], 20, vocabulary_));
        sequences.back()->speculate = i != 3;
        if (i > 6) sequences.back()->constraint = std::make_unique<TokenConstraint>(letters);
        EXPECT_TRUE(scheduler.submit(*sequences.back()));
      }
      finish(scheduler);
      EXPECT_EQ(picky.picked > 40, picks);
      EXPECT_EQ(picky.drawn > 100, picks && draws);
      EXPECT_EQ(picky.drawn + picky.kept > 80, picks);
      std::vector<std::vector<int32_t>> tokens;
      for (const auto& sequence : sequences) tokens.push_back(sequence->tokens);
      return tokens;
    };
    EXPECT_EQ(answers(true), answers(false));
  }

  virtual const char* device() const { return "cpu"; }

  Graph graph_;
  int64_t vocabulary_ = 0;
};

}  // namespace edgewise
