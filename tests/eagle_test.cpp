// EAGLE-3 on the embedded model: the scheduler with its head says what it says without.
#include <gtest/gtest.h>

#include "backends/cpu/allocation_count.h"
#include "draft_bench.h"
#include "text/tokenizer.h"

namespace edgewise {
namespace {

const DraftingOptions kChain{.top_k = 1, .steps = 5};
const DraftingOptions kTree{.top_k = 3, .steps = 4, .verify_tokens = 16, .least_chance = 0.05};
const DraftingOptions kWide{.top_k = 10, .steps = 6, .verify_tokens = 60, .least_chance = 0};

TEST(Eagle, GreedyTokensAreThoseWithoutIt) {
  const auto expected = run({}, compared_prompts());
  for (const DraftingOptions& options : {kChain, kTree, kWide}) {
    SCOPED_TRACE(options.top_k);
    const Outcome found = run({.drafting = options}, compared_prompts());
    EXPECT_EQ(found.tokens, expected.tokens);
    EXPECT_GT(found.stats.accepted, 2 * found.stats.verifications);
  }
}

TEST(Eagle, CompanyChunksAndCachesChangeNoToken) {
  const auto expected = run({}, compared_prompts());
  auto many = compared_prompts();
  for (auto& prompt : compared_prompts()) many.push_back(prompt);
  auto twice = expected.tokens;
  twice.insert(twice.end(), expected.tokens.begin(), expected.tokens.end());
  auto longer = compared_prompts();  // each begins in one page and ends in its second
  for (auto& prompt : longer)
    while (prompt.size() < 55) prompt.insert(prompt.begin(), 7);
  const Outcome longest = run({}, longer, 60);
  for (const DraftingOptions& options : {kChain, kTree}) {
    SCOPED_TRACE(options.top_k);
    EXPECT_EQ(run({.drafting = options, .sequences = 16}, many).tokens, twice);
    EXPECT_EQ(run({.drafting = options, .sequences = 3, .step_tokens = 7}, many).tokens, twice);
    EXPECT_EQ(run({.drafting = options, .sequences = 4, .weigh = true}, many).tokens, twice);
    const Outcome half = run({.drafting = options, .sequences = 4, .disabled = true}, many);
    EXPECT_EQ(half.tokens, twice);
    EXPECT_GT(half.stats.accepted, 0);
    // Fewer pages than answers need: some leave and are computed again.
    const Outcome tight = run({.drafting = options, .sequences = 6, .kv_pages = 5}, longer, 60);
    EXPECT_EQ(tight.tokens, longest.tokens);
    EXPECT_GT(tight.preemptions, 0);
  }
}

TEST(Eagle, QuantizedCaches) {
  for (const DType kv : {DType::kI8, DType::kF8E4M3}) {
    const auto expected = run({.kv = kv}, compared_prompts());
    EXPECT_EQ(run({.drafting = kChain, .kv = kv}, compared_prompts()).tokens, expected.tokens);
    EXPECT_EQ(run({.drafting = kTree, .sequences = 5, .kv = kv}, compared_prompts()).tokens, expected.tokens);
  }
}

// Long prompts that share their beginnings, over page and range boundaries.
TEST(Eagle, SharedPrefixes) {
  std::vector<int32_t> all;
  for (const auto& prompt : prompts()) all.insert(all.end(), prompt.begin(), prompt.end());
  std::vector<std::vector<int32_t>> long_prompts;
  for (const size_t length : {200, 130, 200, 129, 128, 190})
    long_prompts.emplace_back(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(length));
  const auto expected = run({.sequences = 2}, long_prompts);
  for (const DraftingOptions& options : {kChain, kTree}) {
    const Outcome found = run({.drafting = options, .sequences = 2}, long_prompts);
    EXPECT_EQ(found.tokens, expected.tokens);
    EXPECT_GT(found.cached, 0);
    EXPECT_GT(found.stats.verifications, 0);
  }
}

TEST(Eagle, SampledTokensAreThoseWithoutIt) {
  SamplingOptions sampling;
  sampling.temperature = 0.9;
  sampling.top_p = 0.95;
  sampling.repetition_penalty = 1.1;
  for (const uint64_t seed : {1, 2, 3}) {
    sampling.seed = seed;
    const auto expected = run({.sampling = sampling}, compared_prompts());
    for (const DraftingOptions& options : {kChain, kTree})
      EXPECT_EQ(run({.drafting = options, .sequences = 4, .sampling = sampling}, compared_prompts()).tokens,
                expected.tokens);
  }
}

// A whole prompt, then steps that guess and check.
TEST(Eagle, AStepAllocatesNothing) {
  for (const DraftingOptions& options : {kChain, kWide}) {
    Bench bench({.drafting = options, .sequences = 2, .weigh = true});
    const auto all = prompts();
    SamplingOptions sampling;
    sampling.temperature = 0.7;
    sampling.seed = 3;
    Sequence a(all[4], {}, 60, pair().vocabulary);
    Sequence b(all[5], sampling, 60, pair().vocabulary);
    a.ignore_end = b.ignore_end = true;
    ASSERT_TRUE(bench.scheduler->submit(a));
    ASSERT_TRUE(bench.scheduler->submit(b));
    bench.scheduler->step();
    const int64_t before = allocation_count();
    while (!bench.scheduler->idle()) bench.scheduler->step();
    EXPECT_EQ(allocation_count(), before);
    EXPECT_GT(a.drafted, 0);
  }
}

// Drafts that are never right are given up, and the answer stays what it is.
TEST(Eagle, GivesUpWhereItDoesNotPay) {
  Bench bench({.drafting = kWide, .sequences = 1, .weigh = true});
  for (int32_t& token : bench.targets) token = 1;  // every guess is the unknown token
  bench.use(bench.targets);
  const auto expected = run({}, {prompts()[4]}, 60);
  Sequence sequence(prompts()[4], {}, 60, pair().vocabulary);
  ASSERT_TRUE(bench.scheduler->submit(sequence));
  while (!bench.scheduler->idle()) ASSERT_EQ(bench.scheduler->step(), StepOutcome::kDone);
  EXPECT_EQ(sequence.tokens, expected.tokens[0]);
  EXPECT_TRUE(sequence.gave_up);
  EXPECT_GT(sequence.verifications, 0);
  EXPECT_LT(sequence.verifications, 20);
}

// A second turn finds the pages of the first one in the cache, and the head its own beside them: it guesses as well as
// after a prompt that it reads from the beginning.
TEST(Eagle, GuessesAsWellAfterCachedTurns) {
  const auto golden = goldens();
  auto turn = golden[0].prompt;
  for (const auto* more : {&golden[0].answer, &golden[1].prompt}) turn.insert(turn.end(), more->begin(), more->end());
  Bench bench({.drafting = kChain});
  const auto answer = [&](const std::vector<int32_t>& prompt, int tokens) {
    auto sequence = std::make_unique<Sequence>(prompt, SamplingOptions{}, tokens, pair().vocabulary);
    sequence->ignore_end = true;
    EXPECT_TRUE(bench.scheduler->submit(*sequence));
    while (!bench.scheduler->idle()) EXPECT_EQ(bench.scheduler->step(), StepOutcome::kDone);
    return sequence;
  };
  auto next = answer(turn, 60)->tokens;
  next.insert(next.end(), golden[2].prompt.begin(), golden[2].prompt.end());
  ASSERT_LT(next.size(), 230);
  const auto cached = answer(next, 25);
  EXPECT_GE(cached->cached_tokens, 64);
  bench.use(bench.targets);  // with an empty cache
  const auto fresh = answer(next, 25);
  EXPECT_EQ(fresh->cached_tokens, 0);
  EXPECT_EQ(cached->tokens, fresh->tokens);
  EXPECT_EQ(cached->verifications, fresh->verifications);
  EXPECT_EQ(cached->accepted, fresh->accepted);
}

// Under a grammar nothing is tried that it forbids, and the answer is the one without guesses.
TEST(Eagle, GuessesWithinAGrammar) {
  const Tokenizer tokenizer = Tokenizer::load(kBase / "tokenizer.json");
  const GrammarCompiler compiler(tokenizer, static_cast<int32_t>(pair().vocabulary), {2});
  const auto grammar = compiler.compile_regex("[a-z ,.']{20,300}");  // as the model writes, but for capitals
  const auto answer = [&](const RunSetup& setup) {
    const Bench bench(setup);
    Sequence sequence(prompts()[4], {}, 150, pair().vocabulary);
    sequence.constraint = std::make_unique<TokenConstraint>(grammar);
    EXPECT_TRUE(bench.scheduler->submit(sequence));
    while (!bench.scheduler->idle()) {
      EXPECT_EQ(bench.scheduler->step(), StepOutcome::kDone);
      const ConstraintState& state = sequence.constraint->state;
      std::vector<std::optional<ConstraintState::Place>> places;
      for (size_t i = 0; i < sequence.draft.tokens.size(); ++i) {
        const int32_t parent = sequence.draft.parents[i];
        const auto before = parent < 0 ? state.place() : places.at(static_cast<size_t>(parent)).value();
        places.push_back(state.behind(before, sequence.draft.tokens[i]));
        EXPECT_TRUE(places.back().has_value());
        if (!places.back()) places.back() = state.place();
      }
    }
    EXPECT_EQ(sequence.accepted > 0, setup.drafting.has_value());
    return sequence.tokens;
  };
  const auto expected = answer({});
  for (const DraftingOptions& options : {kChain, kTree, kWide}) EXPECT_EQ(answer({.drafting = options}), expected);
}

}  // namespace
}  // namespace edgewise
