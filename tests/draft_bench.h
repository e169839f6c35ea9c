// The embedded model with and without somebody who guesses for it, for tests of speculative decoding.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <numeric>
#include <optional>

#include "backends/backend.h"
#include "base/thread_pool.h"
#include "compiler/draft_head.h"
#include "compiler/passes.h"
#include "models/eagle.h"
#include "models/families.h"
#include "runtime/eagle_drafter.h"
#include "runtime/engine_drafter.h"
#include "runtime/scheduler.h"

namespace edgewise {

namespace fs = std::filesystem;

inline const fs::path kBase = fs::path(EDGEWISE_SOURCE_DIR) / "models/edge-tiny-16m";
inline const fs::path kHead = fs::path(EDGEWISE_SOURCE_DIR) / "models/edge-tiny-16m-eagle3";

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
    put_out_final_hidden(base);
    for (const int64_t offset : eagle.draft_to_target.to_int64())
      targets.push_back(static_cast<int32_t>(targets.size()) + static_cast<int32_t>(offset));
    vocabulary = spec.vocabulary;
    hidden = spec.hidden;
  }
};

// One pair for all tests.
inline const Pair& pair() {
  static const Pair made;
  return made;
}

struct Golden {
  std::vector<int32_t> prompt;
  std::vector<int32_t> answer;
};

inline std::vector<Golden> goldens() {
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
struct RunSetup {
  std::optional<DraftingOptions> drafting = {};
  const Graph* engine = nullptr;  // that guesses; null: the head
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

// A scheduler and what it runs on.
struct Bench {
  explicit Bench(const RunSetup& setup) : options(setup.drafting), engine(setup.engine), targets(pair().targets) {
    limits.vocabulary = pair().vocabulary;
    limits.max_sequences = setup.sequences;
    limits.kv_capacity = 256;
    limits.kv_pages = setup.kv_pages > 0 ? setup.kv_pages : 5 * setup.sequences;
    limits.reserve_whole = setup.kv_pages == 0;
    limits.weigh_drafts = setup.weigh;
    const int rows = setup.sequences * (options ? options->tokens(options->steps) + 1 : 1);
    limits.max_step_tokens = std::max(setup.step_tokens, rows);
    LoadOptions load{.max_tokens = limits.max_step_tokens,
                     .max_sequences = setup.sequences,
                     .max_rows = rows,
                     .kv_pages = limits.kv_pages,
                     .kv_dtype = setup.kv,
                     .pool = std::make_shared<ThreadPool>(2)};
    base = find_backend("cpu").load(pair().base, load);
    if (options) {
      load.max_rows = setup.sequences * options->top_k;
      if (engine != nullptr) load.max_tokens = EngineDrafter::most_step_tokens(draft_limits());
      model = find_backend("cpu").load(engine == nullptr ? pair().head : *engine, load);
    }
    if (engine != nullptr) {
      targets.resize(static_cast<size_t>(pair().vocabulary));
      std::iota(targets.begin(), targets.end(), 0);
    }
    use(targets);
  }
  DraftLimits draft_limits() const {
    return {limits.max_sequences, limits.max_step_tokens, engine == nullptr ? pair().hidden : 0};
  }
  void use(const std::vector<int32_t>& tokens) {
    const DraftLimits draft = draft_limits();
    if (options && engine == nullptr) drafter = std::make_unique<EagleDrafter>(*model, *options, draft, tokens);
    if (options && engine != nullptr)
      drafter = std::make_unique<EngineDrafter>(*model, *options, draft, tokens, pair().vocabulary);
    scheduler = std::make_unique<Scheduler>(*base, limits, std::vector<int32_t>{2}, drafter.get());
  }

  std::optional<DraftingOptions> options;
  const Graph* engine;
  std::vector<int32_t> targets;
  SchedulerLimits limits;
  std::unique_ptr<Executable> base;
  std::unique_ptr<Executable> model;  // that guesses
  std::unique_ptr<Drafter> drafter;
  std::unique_ptr<Scheduler> scheduler;
};

// All prompts through one scheduler, with the invariants checked between steps.
inline Outcome run(const RunSetup& setup, const std::vector<std::vector<int32_t>>& prompts, int max_tokens = 24) {
  const Bench bench(setup);
  Scheduler& scheduler = *bench.scheduler;
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

inline std::vector<std::vector<int32_t>> prompts() {
  std::vector<std::vector<int32_t>> result;
  for (const Golden& golden : goldens()) result.push_back(golden.prompt);
  return result;
}

inline std::vector<std::vector<int32_t>> few_prompts() {
  auto all = prompts();
  all.resize(4);
  return all;
}

// What runs are compared by. Under a sanitizer, where a step takes twenty times as long, few will do.
inline std::vector<std::vector<int32_t>> compared_prompts() {
#ifdef EDGEWISE_SANITIZED
  return few_prompts();
#else
  return prompts();
#endif
}

}  // namespace edgewise
