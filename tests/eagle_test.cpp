// EAGLE-3 on the embedded model: the head guesses the base, and what a checkpoint must hold.
#include <gtest/gtest.h>

#include <numeric>

#include "backends/backend.h"
#include "compiler/draft_head.h"
#include "compiler/passes.h"
#include "models/eagle.h"
#include "models/families.h"

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

// Row p of the head, fed with token p+1 and the base's features of position p, names token p+2.
TEST(EagleHead, GuessesWhatTheBaseSays) {
  const Pair pair;
  const LoadOptions options{.max_tokens = 256, .max_rows = 256, .kv_pages = 4};
  const auto base = find_backend("cpu").load(pair.base, options);
  const auto head = find_backend("cpu").load(pair.head, options);
  const auto golden = SafetensorsFile::open(kBase / "golden.safetensors");
  int right = 0;
  int all = 0;
  for (int prompt = 0; prompt < 10; ++prompt) {
    const auto ids = golden.at("prompt_" + std::to_string(prompt) + "_ids").to_int64();
    const auto answer = golden.at("prompt_" + std::to_string(prompt) + "_greedy").to_int64();
    std::vector<int32_t> tokens(ids.begin(), ids.end());
    tokens.insert(tokens.end(), answer.begin(), answer.end());
    const std::vector<int32_t> pages{0, 1, 2, 3};
    std::vector<int32_t> positions(tokens.size());
    std::iota(positions.begin(), positions.end(), 0);
    const auto count = static_cast<int32_t>(tokens.size());
    SequenceSlice slice{0, count, 0, count, pages, -1};
    std::vector<float> features(tokens.size() * static_cast<size_t>(pair.hidden));
    const std::span<float> outputs[] = {{}, features};
    ASSERT_EQ(base->run({tokens, positions, {}, {&slice, 1}, {}}, StepOutputs(outputs)), StepOutcome::kDone);
    const std::span next = std::span(tokens).subspan(1);
    slice.token_count = count - 1;
    const auto first = static_cast<int32_t>(ids.size()) - 1;  // the row that has seen the answer's first token
    const std::span rows = std::span(positions).subspan(static_cast<size_t>(first), answer.size() - 1);
    std::vector<float> logits(rows.size() * pair.targets.size());
    ASSERT_EQ(head->run({next,
                         std::span(positions).first(next.size()),
                         std::span(features).first(next.size() * static_cast<size_t>(pair.hidden)),
                         {&slice, 1},
                         rows},
                        logits),
              StepOutcome::kDone);
    for (size_t i = 0; i < rows.size(); ++i, ++all) {
      const auto row = std::span(logits).subspan(i * pair.targets.size(), pair.targets.size());
      const auto best = static_cast<size_t>(std::max_element(row.begin(), row.end()) - row.begin());
      right += pair.targets[best] == tokens[ids.size() + i + 1] ? 1 : 0;
    }
  }
  EXPECT_GT(right, 0.85 * all);
}

}  // namespace
}  // namespace edgewise
