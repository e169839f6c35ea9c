// EAGLE-3 heads: that one guesses its base, and what a checkpoint must hold.
#include <gtest/gtest.h>

#include <unistd.h>

#include <functional>

#include "base/error.h"
#include "base/output_file.h"
#include "draft_bench.h"

namespace edgewise {
namespace {

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
