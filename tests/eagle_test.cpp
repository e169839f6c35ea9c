// EAGLE-3 on the embedded model: the head guesses the base, and what a checkpoint must hold.
#include <gtest/gtest.h>

#include <unistd.h>

#include <functional>

#include "backends/cpu/allocation_count.h"
#include "base/error.h"
#include "base/output_file.h"
#include "draft_bench.h"
#include "text/tokenizer.h"

namespace edgewise {
namespace {

const DraftingOptions kChain{.top_k = 1, .steps = 5};
const DraftingOptions kTree{.top_k = 3, .steps = 4, .verify_tokens = 16, .least_chance = 0.05};
const DraftingOptions kWide{.top_k = 10, .steps = 6, .verify_tokens = 60, .least_chance = 0};

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
    const std::span<float> outputs[] = {{}, {}, features};
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
  for (const DraftingOptions& options : {kChain, kTree, kWide}) {
    SCOPED_TRACE(options.top_k);
    const Outcome found = run({.drafting = options}, prompts());
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
    const auto expected = run({.kv = kv}, prompts());
    EXPECT_EQ(run({.drafting = kChain, .kv = kv}, prompts()).tokens, expected.tokens);
    EXPECT_EQ(run({.drafting = kTree, .sequences = 5, .kv = kv}, prompts()).tokens, expected.tokens);
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
    const auto expected = run({.sampling = sampling}, prompts());
    for (const DraftingOptions& options : {kChain, kTree})
      EXPECT_EQ(run({.drafting = options, .sequences = 4, .sampling = sampling}, prompts()).tokens, expected.tokens);
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

// A copy of the head with its config and tensors changed.
class ChangedHead {
 public:
  using Tensors = std::map<std::string, Tensor>;
  explicit ChangedHead(const std::function<void(Json&, Tensors&)>& change)
      : directory_(fs::temp_directory_path() / ("edgewise-head-" + std::to_string(::getpid()))) {
    fs::remove_all(directory_);
    fs::create_directory(directory_);
    Json config = read_json_file(kHead / "config.json");
    const auto file = SafetensorsFile::open(kHead / "model.safetensors");
    Tensors tensors(file.tensors().begin(), file.tensors().end());
    change(config, tensors);
    write_text_file(directory_ / "config.json", config.dump());
    SafetensorsWriter writer(directory_ / "model.safetensors");
    for (const auto& [name, tensor] : tensors) writer.declare(name, tensor.dtype(), tensor.shape());
    for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
    writer.commit();
  }
  ~ChangedHead() { fs::remove_all(directory_); }
  const fs::path& directory() const { return directory_; }
  // What reading it says, "" when it is fine.
  std::string complaint() const {
    try {
      const Checkpoint base = Checkpoint::open(kBase);
      const Checkpoint head = Checkpoint::open(directory_);
      const DecoderSpec spec = describe_model(base.config(), base.config_path());
      build_eagle(describe_eagle(head, spec, base), head, DType::kBF16);
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  }

 private:
  fs::path directory_;
};

TEST(EagleHead, RefusesHeadsThatDoNotFit) {
  using Tensors = ChangedHead::Tensors;
  const auto says = [](const std::function<void(Json&, Tensors&)>& change, const std::string& what) {
    const std::string complaint = ChangedHead(change).complaint();
    EXPECT_NE(complaint.find(what), std::string::npos) << "found \"" << complaint << "\", expected " << what;
  };
  const auto set = [](const char* key, const Json& value) {
    return [key, value](Json& config, Tensors&) { config[key] = value; };
  };
  EXPECT_EQ(ChangedHead([](Json&, Tensors&) {}).complaint(), "");
  says(set("hidden_size", 512), "hidden_size = 512, the base model has 384");
  says(set("vocab_size", 32000), "vocab_size = 32000, the base model has 8192");
  says(set("num_hidden_layers", 2), "num_hidden_layers = 2");
  says(set("draft_vocab_size", 4096), "d2t");
  says(set("draft_vocab_size", 0), "draft_vocab_size");
  says(set("draft_vocab_size", "many"), "draft_vocab_size");
  says(set("eagle_aux_hidden_state_layer_ids", {2, 4, 8}), "layer 8");
  says(set("eagle_aux_hidden_state_layer_ids", {0, 4, 5}), "layer 0");
  says(set("eagle_aux_hidden_state_layer_ids", {4, 4, 5}), "in order");
  says(set("eagle_aux_hidden_state_layer_ids", {2, 4}), "three layers");
  says(set("eagle_aux_hidden_state_layer_ids", {2, 4, "x"}), "three layers");
  says(set("some_new_feature", true), "some_new_feature");
  for (const char* name : {"fc.weight", "midlayer.hidden_norm.weight", "midlayer.self_attn.k_proj.weight",
                           "norm.weight", "lm_head.weight", "d2t"}) {
    says([&](Json&, Tensors& tensors) { tensors.erase(name); },
         std::string(name).substr(0, std::string(name).rfind(".weight")));
  }
  says([](Json&, Tensors& tensors) { tensors["fc.weight"] = Tensor::zeros(DType::kBF16, {384, 768}); }, "fc");
  says(
      [](Json&, Tensors& tensors) {
        tensors["midlayer.self_attn.q_proj.weight"] = Tensor::zeros(DType::kBF16, {384, 384});
      },
      "q_proj");
  for (const auto& [index, offset] : std::map<size_t, int64_t>{{0, -1}, {1, INT64_MAX}, {2, 8190}}) {
    std::vector<int64_t> offsets(2048);
    offsets[index] = offset;
    says([&](Json&, Tensors& tensors) { tensors["d2t"] = Tensor::from_int64({2048}, offsets); },
         fmt::format("d2t[{}]", index));
  }
  ChangedHead torn([](Json&, Tensors&) {});
  fs::resize_file(torn.directory() / "model.safetensors", 100000);
  EXPECT_NE(torn.complaint().find("model.safetensors"), std::string::npos);
}

// Heads may bring an embedding of their own, and the layers may be left to the rule or stand in eagle_config.
TEST(EagleHead, PublishedVariants) {
  const Checkpoint base = Checkpoint::open(kBase);
  const DecoderSpec spec = describe_model(base.config(), base.config_path());
  const ChangedHead changed([&](Json& config, ChangedHead::Tensors& tensors) {
    config.erase("eagle_aux_hidden_state_layer_ids");
    tensors["embed_tokens.weight"] = Tensor::zeros(DType::kBF16, {8192, 384});
  });
  const Checkpoint head = Checkpoint::open(changed.directory());
  const EagleHead eagle = describe_eagle(head, spec, base);
  EXPECT_EQ(eagle.hidden_layers, (std::array<int64_t, 3>{2, 4, 5}));
  EXPECT_EQ(eagle.embedding.load().to_floats()[1000], 0.0f);
  const ChangedHead nested([](Json& config, ChangedHead::Tensors&) {
    config.erase("eagle_aux_hidden_state_layer_ids");
    config["eagle_config"]["eagle_aux_hidden_state_layer_ids"] = {1, 3, 6};
  });
  const Checkpoint other = Checkpoint::open(nested.directory());
  EXPECT_EQ(describe_eagle(other, spec, base).hidden_layers, (std::array<int64_t, 3>{1, 3, 6}));
}

TEST(EagleHead, RefusesFilesThatDoNotFit) {
  const auto complaint = [](Graph base, Graph head) -> std::string {
    try {
      join_draft_head(base, head, "draft.onnx");
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  };
  const Checkpoint checkpoint = Checkpoint::open(kBase);
  const Checkpoint draft = Checkpoint::open(kHead);
  const DecoderSpec spec = describe_model(checkpoint.config(), checkpoint.config_path());
  const Graph plain = build_decoder(spec, checkpoint, {});
  const Graph base = build_decoder(spec, checkpoint, {.hidden_layers = {2, 4, 5}});
  const Graph head = build_eagle(describe_eagle(draft, spec, checkpoint), draft, DType::kBF16);
  EXPECT_EQ(complaint(base, head), "");
  EXPECT_NE(complaint(plain, head).find("0 hidden states"), std::string::npos);
  EXPECT_NE(complaint(base, base).find("draft.onnx: expected the input"), std::string::npos);
  Graph narrow = head;
  narrow.outputs()[1] = narrow.outputs()[0];
  EXPECT_NE(complaint(base, narrow).find("columns"), std::string::npos);
  Graph nameless = base;
  std::swap(nameless.outputs()[1], nameless.outputs()[0]);
  EXPECT_NE(complaint(nameless, base), "");
}

}  // namespace
}  // namespace edgewise
