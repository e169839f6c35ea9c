// The scheduler over a real model: answers do not depend on company or on chunks, and a step allocates nothing.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "backends/backend.h"
#include "backends/cpu/allocation_count.h"
#include "models/families.h"
#include "runtime/prompt_lookup.h"
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
  ASSERT_TRUE(scheduler.submit(a));
  ASSERT_TRUE(scheduler.submit(b));
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
    ASSERT_TRUE(scheduler.submit(sequence));
    scheduler.step();
    scheduler.cancel(sequence);
    EXPECT_TRUE(scheduler.idle());
    EXPECT_EQ(sequence.finish, FinishReason::kCancelled);
  }
}

// Greedy or sampled, with drafts the tokens are those without.
TEST_F(RuntimeTest, DraftsChangeTheSpeedOnly) {
  std::vector<std::vector<int32_t>> prompts;
  for (int i = 0; i < 5; ++i) {
    auto ids = prompt(i, 20 + 9 * i);
    const auto again = ids;
    ids.insert(ids.end(), again.begin(), again.end());  // something to look up
    prompts.push_back(ids);
  }
  SamplingOptions sampled;
  sampled.temperature = 0.7;
  sampled.repetition_penalty = 1.1;
  sampled.seed = 3;
  for (const SamplingOptions& sampling : {SamplingOptions{}, sampled}) {
    const auto expected = run(5, 64, prompts, sampling);
    auto l = limits(5, 64);
    l.weigh_drafts = false;
    const auto executable = find_backend("cpu").load(graph_, {.max_tokens = l.max_step_tokens,
                                                              .max_sequences = l.max_sequences,
                                                              .max_rows = l.max_sequences * 6,
                                                              .kv_pages = l.kv_pages,
                                                              .threads = 2});
    PromptLookup lookup(5);
    Scheduler scheduler(*executable, l, {}, &lookup);
    std::vector<std::unique_ptr<Sequence>> sequences;
    for (const auto& ids : prompts) {
      sequences.push_back(std::make_unique<Sequence>(ids, sampling, 20, vocabulary_));
      ASSERT_TRUE(scheduler.submit(*sequences.back()));
    }
    finish(scheduler);
    int drafted = 0;
    for (size_t i = 0; i < prompts.size(); ++i) {
      EXPECT_EQ(sequences[i]->tokens, expected[i]) << i;
      EXPECT_LE(sequences[i]->accepted, sequences[i]->drafted);
      drafted += sequences[i]->drafted;
    }
    EXPECT_GT(drafted, 0);
  }
}

TEST(PromptLookup, FindsTheLatestLongestMatch) {
  const auto look_up = [&](const std::vector<int32_t>& tokens, int most) {
    DraftTree draft;
    look_up_draft(tokens, most, draft);
    EXPECT_TRUE(draft.is_chain());
    return draft.tokens;
  };
  EXPECT_EQ(look_up({1, 2, 3, 4, 1, 2}, 3), (std::vector<int32_t>{3, 4, 1}));
  EXPECT_EQ(look_up({1, 2, 9, 1, 2, 7, 1, 2}, 1), (std::vector<int32_t>{7}));
  EXPECT_EQ(look_up({5, 1, 2, 9, 1, 2, 7, 5, 1, 2}, 2), (std::vector<int32_t>{9, 1}));  // three tokens beat two
  EXPECT_EQ(look_up({7, 7, 7, 7}, 4), (std::vector<int32_t>{7}));
  EXPECT_EQ(look_up({1, 2, 3}, 4), (std::vector<int32_t>{}));
  EXPECT_EQ(look_up({}, 4), (std::vector<int32_t>{}));
}

TEST(Speculation, LearnsFromWhatWasAccepted) {
  Acceptance acceptance;
  EXPECT_NEAR(acceptance.tokens(), 3, 1e-9);
  for (int i = 0; i < 100; ++i) acceptance.note(0);
  EXPECT_LT(acceptance.tokens(), 1.5);
  for (int i = 0; i < 100; ++i) acceptance.note(5);
  EXPECT_GT(acceptance.tokens(), 5);
}

TEST(Speculation, ComparesStepsWithAndWithout) {
  SpeculationCost cost;
  EXPECT_FALSE(cost.wants_plain(1, true));
  EXPECT_EQ(cost.ratio(1), 0);
  for (int i = 0; i < 3; ++i) cost.note(1, true, 0.020);
  EXPECT_TRUE(cost.wants_plain(1, false));
  EXPECT_FALSE(cost.wants_plain(4, false));
  cost.note(1, false, 0.010);
  EXPECT_NEAR(cost.ratio(1), 2, 1e-9);
  EXPECT_FALSE(cost.wants_plain(1, true));
  for (int i = 0; i < 3; ++i) cost.note(1, true, 0.080);  // all became four times slower
  EXPECT_FALSE(cost.wants_plain(1, false));
  EXPECT_TRUE(cost.wants_plain(1, true));
  for (int i = 0; i < 29; ++i) cost.note(1, true, 0.080);
  EXPECT_TRUE(cost.wants_plain(1, false));
  cost.note(1, false, 0.040);
  cost.note(1, false, 0.500);  // nothing to compare with
  EXPECT_NEAR(cost.ratio(1), 2, 0.01);
}

TEST_F(RuntimeTest, SequencesDrivenOutAreComputedAgain) {
  auto l = limits(6, 128);
  l.reserve_whole = false;
  l.kv_pages = 7;  // six prompts of a page each, and every answer needs a second one
  l.share_prefixes = false;
  const auto executable = load(l);
  Scheduler scheduler(*executable, l, {});
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (int i = 0; i < 6; ++i) {
    sequences.push_back(std::make_unique<Sequence>(prompt(i, 50), SamplingOptions{}, 20, vocabulary_));
    ASSERT_TRUE(scheduler.submit(*sequences.back()));
  }
  finish(scheduler);
  int preemptions = 0;
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(sequences[static_cast<size_t>(i)]->tokens, alone(prompt(i, 50))) << i;
    preemptions += sequences[static_cast<size_t>(i)]->preemptions;
  }
  EXPECT_GT(preemptions, 0);
  EXPECT_EQ(sequences[0]->preemptions, 0);  // the oldest never leaves
}

TEST_F(RuntimeTest, PrefixesAreComputedOnce) {
  const auto l = limits(2, 64);
  const auto executable = load(l);
  Scheduler scheduler(*executable, l, {});
  const auto shared = prompt(1, 140);
  auto other = shared;
  other.back() += 1;
  other.resize(130);
  const auto answer = [&](const std::vector<int32_t>& ids, int cached) {
    Sequence sequence(ids, {}, 20, vocabulary_);
    ASSERT_TRUE(scheduler.submit(sequence));
    finish(scheduler);
    EXPECT_EQ(sequence.cached_tokens, cached);
    EXPECT_EQ(sequence.tokens, alone(ids));
  };
  answer(shared, 0);
  answer(shared, 128);
  answer(other, 128);
  answer(prompt(2, 140), 0);
  // The next turn of a conversation finds prompt and answer.
  auto turn = alone(shared);
  turn.push_back(7);
  answer(std::vector<int32_t>(turn.begin(), turn.begin() + 128), 64);  // its last token must be computed
}

TEST_F(RuntimeTest, ManyPrefixesPushOutTheOldest) {
  const auto l = limits(1, 64);  // four pages
  const auto executable = load(l);
  Scheduler scheduler(*executable, l, {});
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 5; ++i) {
      Sequence sequence(prompt(i, 150), {}, 20, vocabulary_);
      ASSERT_TRUE(scheduler.submit(sequence));
      finish(scheduler);
      EXPECT_EQ(sequence.tokens, alone(prompt(i, 150)));
    }
  }
}

TEST_F(RuntimeTest, PinnedPrefixesStay) {
  const auto l = limits(2, 64);
  const auto executable = load(l);
  Scheduler scheduler(*executable, l, {});
  Sequence pinned(prompt(1, 100), {}, 5, vocabulary_);
  pinned.pin_tokens = 64;
  ASSERT_TRUE(scheduler.submit(pinned));
  finish(scheduler);
  for (int i = 10; i < 20; ++i) {
    Sequence sequence(prompt(i, 150), {}, 20, vocabulary_);
    ASSERT_TRUE(scheduler.submit(sequence));
    finish(scheduler);
  }
  Sequence again(prompt(1, 100), {}, 5, vocabulary_);
  ASSERT_TRUE(scheduler.submit(again));
  finish(scheduler);
  EXPECT_EQ(again.cached_tokens, 64);
}

TEST_F(RuntimeTest, HigherPriorityGoesFirst) {
  const auto l = limits(1, 64);
  const auto executable = load(l);
  Scheduler scheduler(*executable, l, {});
  Sequence low(prompt(1, 20), {}, 20, vocabulary_);
  Sequence high(prompt(2, 20), {}, 20, vocabulary_);
  high.priority = 1;
  ASSERT_TRUE(scheduler.submit(low));
  for (int i = 0; i < 5; ++i) scheduler.step();
  ASSERT_TRUE(scheduler.submit(high));
  while (!high.finished()) {
    scheduler.step();
    ASSERT_EQ(check_invariants(scheduler.snapshot()), "");
    EXPECT_FALSE(low.finished());
  }
  finish(scheduler);
  EXPECT_EQ(low.preemptions, 1);
  EXPECT_EQ(low.tokens, alone(prompt(1, 20)));
  EXPECT_EQ(high.tokens, alone(prompt(2, 20)));
}

TEST_F(RuntimeTest, FullQueueSaysBusy) {
  auto l = limits(1, 64);
  l.max_waiting = 2;
  const auto executable = load(l);
  Scheduler scheduler(*executable, l, {});
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (int i = 0; i < 4; ++i)
    sequences.push_back(std::make_unique<Sequence>(prompt(i, 10), SamplingOptions{}, 5, vocabulary_));
  EXPECT_TRUE(scheduler.submit(*sequences[0]));
  EXPECT_TRUE(scheduler.submit(*sequences[1]));
  EXPECT_FALSE(scheduler.submit(*sequences[2]));
  scheduler.step();  // the first has a slot now
  EXPECT_TRUE(scheduler.submit(*sequences[3]));
  finish(scheduler);
}

// Random arrivals, cancels and priorities in a cache that is too small for all of them.
TEST_F(RuntimeTest, SurvivesRandomTraffic) {
  for (const bool share : {false, true}) {
    auto l = limits(5, 40);
    l.reserve_whole = false;
    l.kv_pages = 8;
    l.share_prefixes = share;
    l.protect_decoding = true;
    const auto executable = load(l);
    Scheduler scheduler(*executable, l, {});
    std::mt19937 random(7);
    struct Entry {
      std::unique_ptr<Sequence> sequence;
      int salt, length;
    };
    std::vector<Entry> all;
    for (int step = 0; step < 1500; ++step) {
      if (step < 1200 && random() % 12 == 0) {
        const int salt = static_cast<int>(random() % 4);
        const int length = 1 + static_cast<int>(random() % 200);
        all.push_back(
            {std::make_unique<Sequence>(prompt(salt, length), SamplingOptions{}, 20, vocabulary_), salt, length});
        all.back().sequence->priority = static_cast<int>(random() % 3);
        ASSERT_TRUE(scheduler.submit(*all.back().sequence));
      }
      if (random() % 40 == 0 && !all.empty()) scheduler.cancel(*all[random() % all.size()].sequence);
      ASSERT_EQ(scheduler.step(), StepOutcome::kDone);
      ASSERT_EQ(check_invariants(scheduler.snapshot()), "");
    }
    finish(scheduler);
    EXPECT_EQ(scheduler.cache().available(), l.kv_pages);
    int answered = 0, preemptions = 0, cached = 0;
    for (const Entry& entry : all) {
      preemptions += entry.sequence->preemptions;
      cached += entry.sequence->cached_tokens;
      if (entry.sequence->finish != FinishReason::kLength) continue;
      ++answered;
      ASSERT_EQ(entry.sequence->tokens, alone(prompt(entry.salt, entry.length)));
    }
    EXPECT_GT(answered, 50);
    EXPECT_GT(preemptions, 0);
    EXPECT_EQ(cached > 0, share);
  }
}

// Each rule of the validator, broken.
TEST_F(RuntimeTest, ValidatorSeesWhatIsBroken) {
  const auto l = limits(3, 64);
  const auto executable = load(l);
  Scheduler scheduler(*executable, l, {});
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (int i = 0; i < 4; ++i) {
    sequences.push_back(std::make_unique<Sequence>(prompt(i, 100), SamplingOptions{}, 20, vocabulary_));
    ASSERT_TRUE(scheduler.submit(*sequences.back()));
  }
  while (sequences[0]->generated() < 3) scheduler.step();
  const SchedulerSnapshot good = scheduler.snapshot();
  ASSERT_EQ(check_invariants(good), "");
  using Break = void (*)(SchedulerSnapshot&);
  const Break breaks[] = {
      [](SchedulerSnapshot& s) { s.running.push_back(s.running.back()); },
      [](SchedulerSnapshot& s) { std::swap(s.running[0], s.running[1]); },
      [](SchedulerSnapshot& s) { s.running[0].kv_length = s.running[0].length; },
      [](SchedulerSnapshot& s) { s.running[0].finished = true; },
      [](SchedulerSnapshot& s) { s.running[0].pages.pop_back(); },
      [](SchedulerSnapshot& s) { s.running[0].published = 9; },
      [](SchedulerSnapshot& s) { s.running[1].pages[0] = s.running[0].pages[0]; },
      [](SchedulerSnapshot& s) { s.waiting[0].kv_length = 1; },
      [](SchedulerSnapshot& s) { s.waiting[0].arrival = s.running[0].arrival; },
      [](SchedulerSnapshot& s) { s.cache.free.push_back(s.running[0].pages[0]); },
      [](SchedulerSnapshot& s) {
        s.cache.free.clear();
        s.cache.unused.clear();
      },
      [](SchedulerSnapshot& s) {
        s.cache.pages[static_cast<size_t>(s.running[0].pages[0])].shared = false;
        s.cache.pages[static_cast<size_t>(s.running[0].pages[0])].uses = 2;
      },
      [](SchedulerSnapshot& s) { s.cache.pages[static_cast<size_t>(s.running[0].pages[1])].pinned = true; },
  };
  for (size_t i = 0; i < std::size(breaks); ++i) {
    SchedulerSnapshot broken = good;
    breaks[i](broken);
    EXPECT_NE(check_invariants(broken), "") << i;
  }
  finish(scheduler);
}

TEST(PrefillBudget, KeepsStepsShort) {
  PrefillBudget budget(256);
  EXPECT_EQ(budget.tokens(0), 256);
  EXPECT_LE(budget.tokens(1), 16);
  for (int i = 0; i < 20; ++i) budget.note_step(2, 0, 0.010);
  for (int i = 0; i < 20; ++i) budget.note_step(2, 10, 0.012);
  EXPECT_NEAR(budget.tokens(2), 20, 1);  // 0.4 x 10 ms at 0.2 ms a token
  for (int i = 0; i < 50; ++i) budget.note_step(2, 10, 0.110);
  EXPECT_EQ(budget.tokens(2), 2);
}

TEST(Sampler, GreedyIsTheFirstLargest) {
  std::vector<float> logits{1, 5, 5, 2};
  EXPECT_EQ(Sampler({}, 4, {}).sample(logits), 1);
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
