// EAGLE-3 on the embedded model: the head guesses the base, and what a checkpoint must hold.
#include <gtest/gtest.h>

#include <numeric>

#include "backends/backend.h"
#include "base/thread_pool.h"
#include "compiler/draft_head.h"
#include "compiler/passes.h"
#include "models/eagle.h"
#include "models/families.h"
#include "runtime/eagle_drafter.h"
#include "runtime/scheduler.h"

namespace edgewise {
namespace {

namespace fs = std::filesystem;

const fs::path kBase = fs::path(EDGEWISE_SOURCE_DIR) / "models/edge-tiny-16m";
const fs::path kHead = fs::path(EDGEWISE_SOURCE_DIR) / "models/edge-tiny-16m-eagle3";

// Base and head as the compiler makes them, packed for the CPU.
struct Pair {
  Graph base;
  Graph head;
  std::vector<int32_t> targets;  // by index of the draft vocabulary
  int64_t vocabulary = 0;
  int64_t hidden = 0;

  Pair() {
    const Checkpoint checkpoint = Checkpoint::open(kBase);
    const Checkpoint draft = Checkpoint::open(kHead);
    const DecoderSpec spec = describe_model(checkpoint.config(), checkpoint.config_path());
    const EagleHead eagle = describe_eagle(draft, spec, checkpoint);
    DecoderOptions options;
    options.hidden_layers = {eagle.hidden_layers.begin(), eagle.hidden_layers.end()};
    base = build_decoder(spec, checkpoint, options);
    head = build_eagle(eagle, draft, DType::kBF16);
    join_draft_head(base, head, "head");
    for (Graph* graph : {&base, &head}) {
      run_passes(*graph, {});
      for (size_t i = 0; i < graph->nodes().size(); ++i) find_backend("cpu").pack(*graph, static_cast<NodeId>(i));
      graph->compact();
    }
    for (const int64_t offset : eagle.draft_to_target.to_int64())
      targets.push_back(static_cast<int32_t>(targets.size()) + static_cast<int32_t>(offset));
    vocabulary = spec.vocabulary;
    hidden = spec.hidden;
  }
};

// One pair for all tests.
const Pair& pair() {
  static const Pair made;
  return made;
}

struct Golden {
  std::vector<int32_t> prompt;
  std::vector<int32_t> answer;
};

std::vector<Golden> goldens() {
  const auto file = SafetensorsFile::open(kBase / "golden.safetensors");
  std::vector<Golden> result;
  for (int i = 0; i < 10; ++i) {
    const auto ids = file.at("prompt_" + std::to_string(i) + "_ids").to_int64();
    const auto greedy = file.at("prompt_" + std::to_string(i) + "_greedy").to_int64();
    result.push_back({{ids.begin(), ids.end()}, {greedy.begin(), greedy.end()}});
  }
  return result;
}

// How one run differs from the plainest.
struct Setup {
  std::optional<EagleOptions> eagle = {};
  int sequences = 1;
  int step_tokens = 256;
  int kv_pages = 0;  // 0: enough for all
  DType kv = DType::kBF16;
  bool weigh = false;
  bool disabled = false;  // by every other request
  SamplingOptions sampling = {};
};

struct Outcome {
  std::vector<std::vector<int32_t>> tokens;
  SpeculationStats stats;
  int preemptions = 0;
  int cached = 0;
};

// All prompts through one scheduler, one after another's arrival, with the invariants checked between steps.
Outcome run(const Setup& setup, const std::vector<std::vector<int32_t>>& prompts, int max_tokens = 40) {
  SchedulerLimits limits;
  limits.vocabulary = pair().vocabulary;
  limits.max_sequences = setup.sequences;
  limits.max_step_tokens = setup.step_tokens;
  limits.kv_capacity = 256;
  limits.kv_pages = setup.kv_pages > 0 ? setup.kv_pages : 5 * setup.sequences;
  limits.reserve_whole = setup.kv_pages == 0;
  limits.weigh_drafts = setup.weigh;
  const int rows = setup.sequences * (setup.eagle ? setup.eagle->tokens(setup.eagle->steps) + 1 : 1);
  limits.max_step_tokens = std::max(limits.max_step_tokens, rows);
  LoadOptions load{.max_tokens = limits.max_step_tokens,
                   .max_sequences = setup.sequences,
                   .max_rows = rows,
                   .kv_pages = limits.kv_pages,
                   .kv_dtype = setup.kv,
                   .pool = std::make_shared<ThreadPool>(2)};
  const auto base = find_backend("cpu").load(pair().base, load);
  std::unique_ptr<Executable> head;
  std::unique_ptr<EagleDrafter> drafter;
  if (setup.eagle) {
    load.max_rows = setup.sequences * setup.eagle->top_k;
    head = find_backend("cpu").load(pair().head, load);
    const EagleLimits eagle{setup.sequences, limits.max_step_tokens, pair().hidden};
    drafter = std::make_unique<EagleDrafter>(*head, *setup.eagle, eagle, pair().targets);
  }
  Scheduler scheduler(*base, limits, {2}, drafter.get());
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (size_t i = 0; i < prompts.size(); ++i) {
    sequences.push_back(std::make_unique<Sequence>(prompts[i], setup.sampling, max_tokens, pair().vocabulary));
    sequences.back()->speculate = !setup.disabled || i % 2 == 0;
    EXPECT_TRUE(scheduler.submit(*sequences.back()));
  }
  while (!scheduler.idle()) {
    EXPECT_EQ(scheduler.step(), StepOutcome::kDone);
    EXPECT_EQ(check_invariants(scheduler.snapshot()), "");
  }
  Outcome outcome;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const Sequence& sequence = *sequences[i];
    outcome.tokens.push_back(sequence.tokens);
    outcome.preemptions += sequence.preemptions;
    outcome.cached += sequence.cached_tokens;
    EXPECT_TRUE(sequence.speculate || sequence.drafted == 0);
  }
  outcome.stats = scheduler.speculation();
  return outcome;
}

std::vector<std::vector<int32_t>> prompts() {
  std::vector<std::vector<int32_t>> result;
  for (const Golden& golden : goldens()) result.push_back(golden.prompt);
  return result;
}

const EagleOptions kChain{.top_k = 1, .steps = 5};
const EagleOptions kTree{.top_k = 3, .steps = 4, .verify_tokens = 16, .least_chance = 0.05};
const EagleOptions kWide{.top_k = 10, .steps = 6, .verify_tokens = 60, .least_chance = 0};

// Row p of the head, fed with token p+1 and the base's features of position p, names token p+2.
TEST(EagleHead, GuessesWhatTheBaseSays) {
  const LoadOptions options{.max_tokens = 256, .max_rows = 256, .kv_pages = 4};
  const auto base = find_backend("cpu").load(pair().base, options);
  const auto head = find_backend("cpu").load(pair().head, options);
  int right = 0;
  int all = 0;
  for (const auto& [ids, answer] : goldens()) {
    std::vector<int32_t> tokens = ids;
    tokens.insert(tokens.end(), answer.begin(), answer.end());
    const std::vector<int32_t> pages{0, 1, 2, 3};
    std::vector<int32_t> positions(tokens.size());
    std::iota(positions.begin(), positions.end(), 0);
    const auto count = static_cast<int32_t>(tokens.size());
    SequenceSlice slice{0, count, 0, count, pages, -1};
    std::vector<float> features(tokens.size() * static_cast<size_t>(pair().hidden));
    const std::span<float> outputs[] = {{}, features};
    ASSERT_EQ(base->run({tokens, positions, {}, {&slice, 1}, {}}, StepOutputs(outputs)), StepOutcome::kDone);
    const std::span next = std::span(tokens).subspan(1);
    slice.token_count = count - 1;
    const auto first = static_cast<int32_t>(ids.size()) - 1;  // the row that has seen the answer's first token
    const std::span rows = std::span(positions).subspan(static_cast<size_t>(first), answer.size() - 1);
    std::vector<float> logits(rows.size() * pair().targets.size());
    ASSERT_EQ(head->run({next,
                         std::span(positions).first(next.size()),
                         std::span(features).first(next.size() * static_cast<size_t>(pair().hidden)),
                         {&slice, 1},
                         rows},
                        logits),
              StepOutcome::kDone);
    for (size_t i = 0; i < rows.size(); ++i, ++all) {
      const auto row = std::span(logits).subspan(i * pair().targets.size(), pair().targets.size());
      const auto best = static_cast<size_t>(std::max_element(row.begin(), row.end()) - row.begin());
      right += pair().targets[best] == tokens[ids.size() + i + 1] ? 1 : 0;
    }
  }
  EXPECT_GT(right, 0.85 * all);
}

TEST(Eagle, GreedyTokensAreThoseWithoutIt) {
  const auto expected = run({}, prompts());
  const auto golden = goldens();
  for (const EagleOptions& options : {kChain, kTree, kWide}) {
    SCOPED_TRACE(options.top_k);
    const Outcome found = run({.eagle = options}, prompts());
    EXPECT_EQ(found.tokens, expected.tokens);
    EXPECT_GT(found.stats.accepted, 2 * found.stats.verifications);
  }
}

TEST(Eagle, CompanyChunksAndCachesChangeNoToken) {
  const auto expected = run({}, prompts());
  auto many = prompts();
  for (auto& prompt : prompts()) many.push_back(prompt);
  auto twice = expected.tokens;
  twice.insert(twice.end(), expected.tokens.begin(), expected.tokens.end());
  auto longer = prompts();  // each begins in one page and ends in its second
  for (auto& prompt : longer)
    while (prompt.size() < 55) prompt.insert(prompt.begin(), 7);
  const Outcome longest = run({}, longer, 60);
  for (const EagleOptions& options : {kChain, kTree}) {
    SCOPED_TRACE(options.top_k);
    EXPECT_EQ(run({.eagle = options, .sequences = 16}, many).tokens, twice);
    EXPECT_EQ(run({.eagle = options, .sequences = 3, .step_tokens = 7}, many).tokens, twice);
    EXPECT_EQ(run({.eagle = options, .sequences = 4, .weigh = true}, many).tokens, twice);
    const Outcome half = run({.eagle = options, .sequences = 4, .disabled = true}, many);
    EXPECT_EQ(half.tokens, twice);
    EXPECT_GT(half.stats.accepted, 0);
    // Fewer pages than answers need: some leave and are computed again.
    const Outcome tight = run({.eagle = options, .sequences = 6, .kv_pages = 5}, longer, 60);
    EXPECT_EQ(tight.tokens, longest.tokens);
    EXPECT_GT(tight.preemptions, 0);
  }
}

TEST(Eagle, QuantizedCaches) {
  for (const DType kv : {DType::kI8, DType::kF8E4M3}) {
    const auto expected = run({.kv = kv}, prompts());
    EXPECT_EQ(run({.eagle = kChain, .kv = kv}, prompts()).tokens, expected.tokens);
    EXPECT_EQ(run({.eagle = kTree, .sequences = 5, .kv = kv}, prompts()).tokens, expected.tokens);
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
  for (const EagleOptions& options : {kChain, kTree}) {
    const Outcome found = run({.eagle = options, .sequences = 2}, long_prompts);
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
    const auto expected = run({.sampling = sampling}, prompts());
    for (const EagleOptions& options : {kChain, kTree})
      EXPECT_EQ(run({.eagle = options, .sequences = 4, .sampling = sampling}, prompts()).tokens, expected.tokens);
  }
}

}  // namespace
}  // namespace edgewise
