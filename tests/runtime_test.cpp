// The scheduler over a real model: answers do not depend on company or on chunks, and a step allocates nothing.
#include "runtime_fixture.h"

#include <random>

#include "backends/cpu/allocation_count.h"
#include "runtime/prompt_lookup.h"

namespace edgewise {
namespace {

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

TEST_F(RuntimeTest, RowsThatChooseNeedNoLogits) { compare_picks(false); }

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

TEST(PrefillBudget, KeepsStepsShort) {
  PrefillBudget budget(256);
  EXPECT_EQ(budget.tokens(0), 256);
  EXPECT_LE(budget.tokens(1), 16);
  for (int i = 0; i < 20; ++i) budget.note_step(2, 0, 0.010);
  for (int i = 0; i < 20; ++i) budget.note_step(2, 10, 0.012);
  EXPECT_NEAR(budget.tokens(2), 10, 1);  // 0.2 x 10 ms at 0.2 ms a token
  for (int i = 0; i < 50; ++i) budget.note_step(2, 10, 0.110);
  EXPECT_EQ(budget.tokens(2), 2);
}

}  // namespace
}  // namespace edgewise
