// Another engine guesses for the embedded model: itself, which is always right, and one that knows nothing.
#include <gtest/gtest.h>

#include "backends/cpu/allocation_count.h"
#include "backends/test_model.h"
#include "draft_bench.h"

namespace edgewise {
namespace {

const Graph& stranger() {
  static const Graph made = packed(TestModel{.vocabulary = pair().vocabulary}.build(), find_backend("cpu"));
  return made;
}

const DraftingOptions kChain{.top_k = 1, .steps = 4, .least_chance = 0};
const DraftingOptions kTree{.top_k = 2, .steps = 3, .verify_tokens = 8, .least_chance = 0};

// A prompt of `length` tokens, from a place of the goldens' own.
std::vector<int32_t> long_prompt(size_t length, size_t skip = 0) {
  std::vector<int32_t> all;
  for (const auto& prompt : prompts()) all.insert(all.end(), prompt.begin(), prompt.end());
  const auto begin = all.begin() + static_cast<std::ptrdiff_t>(skip);
  return {begin, begin + static_cast<std::ptrdiff_t>(length)};
}

// Runs to the end, and returns the steps that took.
int finish(Scheduler& scheduler) {
  int steps = 0;
  for (; !scheduler.idle(); ++steps) EXPECT_EQ(scheduler.step(), StepOutcome::kDone);
  return steps;
}

TEST(DraftEngine, TokensAreThoseWithoutIt) {
  const auto expected = run({}, few_prompts()).tokens;
  auto longer = compared_prompts();
  for (auto& prompt : longer)
    while (prompt.size() < 60) prompt.insert(prompt.begin(), 7);
  const auto longest = run({}, longer, 30).tokens;
  int preemptions = 0;
  for (const Graph* engine : {&pair().base, &stranger()}) {
    for (const DraftingOptions& options : {kChain, kTree}) {
      SCOPED_TRACE(options.top_k);
      const RunSetup alone{.drafting = options, .engine = engine};
      RunSetup setup = alone;
      const Outcome found = run(setup, few_prompts());
      EXPECT_EQ(found.tokens, expected);
      EXPECT_GT(found.stats.drafted, 0);
      setup.sequences = 4;
      EXPECT_EQ(run(setup, few_prompts()).tokens, expected);
      setup.weigh = true;
      EXPECT_EQ(run(setup, few_prompts()).tokens, expected);
      setup.disabled = true;
      EXPECT_EQ(run(setup, few_prompts()).tokens, expected);
      setup = alone;
      setup.sequences = 3;
      setup.step_tokens = 7;
      EXPECT_EQ(run(setup, few_prompts()).tokens, expected);
      setup = alone;
      setup.sequences = 6;
      setup.kv_pages = 5;
      const Outcome tight = run(setup, longer, 30);
      EXPECT_EQ(tight.tokens, longest);
      preemptions += tight.preemptions;
    }
  }
  EXPECT_GT(preemptions, 0);
}

TEST(DraftEngine, QuantizedCachesAndSampling) {
  SamplingOptions sampling;
  sampling.temperature = 0.9;
  sampling.repetition_penalty = 1.1;
  sampling.seed = 5;
  const auto expected = run({.kv = DType::kI8, .sampling = sampling}, few_prompts()).tokens;
  for (const Graph* engine : {&pair().base, &stranger()}) {
    RunSetup setup{.drafting = kChain, .engine = engine, .sequences = 2, .kv = DType::kI8, .sampling = sampling};
    EXPECT_EQ(run(setup, few_prompts()).tokens, expected);
  }
}

TEST(DraftEngine, ItselfIsAlwaysRight) {
  Bench bench({.drafting = kChain, .engine = &pair().base, .sequences = 2});
  Sequence a(prompts()[4], {}, 41, pair().vocabulary);
  Sequence b(long_prompt(90), {}, 41, pair().vocabulary);
  for (Sequence* sequence : {&a, &b}) {
    sequence->ignore_end = true;
    ASSERT_TRUE(bench.scheduler->submit(*sequence));
  }
  finish(*bench.scheduler);
  for (const Sequence* sequence : {&a, &b}) {
    EXPECT_EQ(sequence->accepted, sequence->drafted);
    EXPECT_EQ(sequence->verifications, 8);  // of five tokens each, behind the prompt's own
  }
}

// Pages that a request without guesses left are missing from the engine's cache: it computes them beside the answer,
// a page a step, and guesses once it has them.
TEST(DraftEngine, CatchesUpOnWhatItHasNotSeen) {
  Bench bench({.drafting = kChain, .engine = &pair().base, .sequences = 2});
  Sequence first(long_prompt(200), {}, 1, pair().vocabulary);
  first.speculate = false;
  ASSERT_TRUE(bench.scheduler->submit(first));
  finish(*bench.scheduler);
  const auto expected = run({}, {long_prompt(200)}, 40).tokens;
  Sequence again(long_prompt(200), {}, 40, pair().vocabulary);
  Sequence other(long_prompt(40, 33), {}, 40, pair().vocabulary);
  again.ignore_end = other.ignore_end = true;
  ASSERT_TRUE(bench.scheduler->submit(again));
  ASSERT_TRUE(bench.scheduler->submit(other));
  ASSERT_EQ(bench.scheduler->step(), StepOutcome::kDone);
  EXPECT_EQ(again.cached_tokens, 192);
  EXPECT_TRUE(again.draft.empty());  // three pages behind
  EXPECT_FALSE(other.draft.empty());
  bench.scheduler->step();
  bench.scheduler->step();
  EXPECT_TRUE(again.draft.empty());
  bench.scheduler->step();
  EXPECT_FALSE(again.draft.empty());
  finish(*bench.scheduler);
  EXPECT_TRUE(std::equal(expected[0].begin(), expected[0].end(), again.tokens.begin()));
  EXPECT_EQ(again.accepted, again.drafted);
  EXPECT_EQ(other.accepted, other.drafted);
  Sequence third(long_prompt(200), {}, 21, pair().vocabulary);  // shares what the second one made
  third.ignore_end = true;
  ASSERT_TRUE(bench.scheduler->submit(third));
  bench.scheduler->step();
  EXPECT_FALSE(third.draft.empty());
  finish(*bench.scheduler);
  EXPECT_EQ(third.accepted, third.drafted);
}

// Two of the same prompt side by side fill one page of the engine's once.
TEST(DraftEngine, TwinsShareWhatItMade) {
  Bench bench({.drafting = kChain, .engine = &pair().base, .sequences = 2, .step_tokens = 80});
  Sequence a(long_prompt(150), {}, 31, pair().vocabulary);
  Sequence b(long_prompt(150), {}, 31, pair().vocabulary);
  a.ignore_end = b.ignore_end = true;
  ASSERT_TRUE(bench.scheduler->submit(a));
  ASSERT_TRUE(bench.scheduler->submit(b));
  finish(*bench.scheduler);
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.accepted, a.drafted);
  EXPECT_EQ(b.accepted, b.drafted);
  EXPECT_GT(b.drafted, 0);
}

// Where one of the vocabularies is smaller: no guess that the model can't say, none behind what the engine can't read.
TEST(DraftEngine, TokensOfOneSideOnly) {
  Bench bench({.drafting = kChain, .engine = &pair().base});
  const auto expected = run({}, {prompts()[4]}, 40).tokens;
  for (size_t i = 0; i < bench.targets.size(); i += 2) bench.targets[i] = -1;
  bench.use(bench.targets);
  Sequence half(prompts()[4], {}, 40, pair().vocabulary);
  ASSERT_TRUE(bench.scheduler->submit(half));
  while (!bench.scheduler->idle()) {
    bench.scheduler->step();
    for (const int32_t token : half.draft.tokens) EXPECT_EQ(token % 2, 1);
  }
  EXPECT_EQ(half.tokens, expected[0]);
  EXPECT_GT(half.drafted, half.accepted);

  const auto limit = *std::max_element(expected[0].begin(), expected[0].end());
  EngineDrafter narrow(*bench.model, kChain, bench.draft_limits(), bench.targets, limit);
  Scheduler scheduler(*bench.base, bench.limits, {2}, &narrow);
  Sequence sequence(prompts()[4], {}, 40, pair().vocabulary);
  ASSERT_TRUE(scheduler.submit(sequence));
  while (!scheduler.idle()) {
    scheduler.step();
    const bool beyond = std::ranges::find(sequence.tokens, limit) != sequence.tokens.end();
    EXPECT_TRUE(!beyond || sequence.draft.empty());
  }
  EXPECT_EQ(sequence.tokens, expected[0]);
}

TEST(DraftEngine, AStepAllocatesNothing) {
  Bench bench({.drafting = kChain, .engine = &stranger(), .sequences = 2, .weigh = true});
  Sequence a(prompts()[4], {}, 40, pair().vocabulary);
  Sequence b(prompts()[5], {}, 40, pair().vocabulary);
  a.ignore_end = b.ignore_end = true;
  ASSERT_TRUE(bench.scheduler->submit(a));
  ASSERT_TRUE(bench.scheduler->submit(b));
  bench.scheduler->step();
  const int64_t before = allocation_count();
  finish(*bench.scheduler);
  EXPECT_EQ(allocation_count(), before);
  EXPECT_GT(a.drafted, 0);
  EXPECT_TRUE(a.gave_up);  // it is never right
}

}  // namespace
}  // namespace edgewise
