// PEFT directories: every field is honoured or refused by name, and a merged checkpoint is the adapter's meaning.
#include "models/adapter.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <random>

#include "base/error.h"
#include "base/mapped_file.h"
#include "formats/json.h"
#include "formats/safetensors.h"
#include "models/checkpoint.h"
#include "models/merge_adapter.h"

namespace edgewise {
namespace {
namespace fs = std::filesystem;

const fs::path kModels = fs::path(EDGEWISE_SOURCE_DIR) / "models";
const fs::path kUpper = kModels / "edge-tiny-16m-lora-upper";

class AdapterTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() / ("edgewise-adapter-" + std::to_string(::getpid()));
    fs::create_directories(directory_);
    for (const char* name : {"adapter_config.json", "adapter_model.safetensors"})
      fs::copy_file(kUpper / name, directory_ / name, fs::copy_options::overwrite_existing);
    fs::permissions(directory_ / "adapter_config.json", fs::perms::owner_write, fs::perm_options::add);
    config_ = read_json_file(kUpper / "adapter_config.json");
  }
  void TearDown() override { fs::remove_all(directory_); }

  void write(const std::string& name, const std::string& bytes) const {
    fs::remove(directory_ / name);
    std::ofstream(directory_ / name, std::ios::binary) << bytes;
  }
  // The reader's error with one field changed; empty when it takes it.
  std::string with(const std::string& key, const Json& value) {
    Json changed = config_;
    changed[key] = value;
    write("adapter_config.json", changed.dump());
    return refusal();
  }
  std::string refusal() const {
    try {
      adapter_ = read_adapter(directory_);
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  }
  // An adapter of these tensors, rank 2.
  std::string with_tensors(const std::map<std::string, Shape>& shapes, DType dtype = DType::kF32) {
    write("adapter_config.json", Json{{"peft_type", "LORA"}, {"r", 2}, {"lora_alpha", 4}}.dump());
    fs::remove(directory_ / "adapter_model.safetensors");
    SafetensorsWriter writer(directory_ / "adapter_model.safetensors");
    for (const auto& [name, shape] : shapes) writer.declare("base_model.model." + name, dtype, shape);
    for (const auto& [name, shape] : shapes) writer.write("base_model.model." + name, Tensor::zeros(dtype, shape));
    writer.commit();
    return refusal();
  }

  fs::path directory_;
  Json config_;
  mutable Adapter adapter_;
};

#define EXPECT_MENTIONS(text, word) EXPECT_NE((text).find(word), std::string::npos) << (text)

TEST_F(AdapterTest, ReadsRanksAndScales) {
  EXPECT_EQ(refusal(), "");
  EXPECT_EQ(adapter_.size(), 32u);
  const LowRank& down = adapter_.at("model.layers.7.mlp.down_proj");
  EXPECT_EQ(down.a.shape(), (Shape{8, 1024}));
  EXPECT_EQ(down.b.shape(), (Shape{384, 8}));
  EXPECT_EQ(down.scale, 4.0f);  // 32 / 8
  EXPECT_EQ(with("use_rslora", true), "");
  EXPECT_FLOAT_EQ(adapter_.at("model.layers.7.mlp.down_proj").scale, 32 / std::sqrt(8.0f));
  EXPECT_EQ(with("alpha_pattern", {{"layers\\.[0-3]\\..*q_proj", 80}, {"o_proj", 8}, {"proj", 1}}), "");
  EXPECT_EQ(adapter_.at("model.layers.3.self_attn.q_proj").scale, 10.0f);
  EXPECT_EQ(adapter_.at("model.layers.4.self_attn.q_proj").scale, 4.0f);  // "proj" is no whole component
  EXPECT_EQ(adapter_.at("model.layers.4.self_attn.o_proj").scale, 1.0f);
  EXPECT_EQ(read_adapter(directory_ / "adapter_model.safetensors").size(), 32u);
}

TEST_F(AdapterTest, RanksOfModules) {
  const std::map<std::string, Shape> shapes = {{"a.q.lora_A.weight", {2, 8}},
                                               {"a.q.lora_B.weight", {4, 2}},
                                               {"a.o.lora_A.weight", {3, 8}},
                                               {"a.o.lora_B.weight", {4, 3}}};
  EXPECT_MENTIONS(with_tensors(shapes), "a.o has rank 3");
  write("adapter_config.json",
        Json{{"peft_type", "LORA"}, {"r", 2}, {"lora_alpha", 6}, {"rank_pattern", {{"o", 3}}}}.dump());
  EXPECT_EQ(refusal(), "");
  EXPECT_EQ(adapter_.at("a.q").scale, 3.0f);
  EXPECT_EQ(adapter_.at("a.o").scale, 2.0f);
}

TEST_F(AdapterTest, RefusesOtherVariants) {
  const std::vector<std::pair<std::string, Json>> fields = {{"use_dora", true},
                                                            {"bias", "all"},
                                                            {"lora_bias", true},
                                                            {"fan_in_fan_out", true},
                                                            {"modules_to_save", {"lm_head"}},
                                                            {"layer_replication", {{0, 4}, {2, 5}}},
                                                            {"target_parameters", {"mlp.experts.gate_up_proj"}},
                                                            {"trainable_token_indices", {1, 2}},
                                                            {"alora_invocation_tokens", {5}},
                                                            {"use_qalora", true},
                                                            {"use_bdlora", {{"match", "x"}}},
                                                            {"arrow_config", {{"top_k", 2}}},
                                                            {"kasa_config", {{"beta", 1}}},
                                                            {"ensure_weight_tying", true},
                                                            {"init_lora_weights", "pissa"},
                                                            {"init_lora_weights", "loftq"},
                                                            {"peft_type", "IA3"},
                                                            {"a_field_of_tomorrow", 1}};
  for (const auto& [key, value] : fields) EXPECT_MENTIONS(with(key, value), key);
  EXPECT_EQ(with("init_lora_weights", "gaussian"), "");
  EXPECT_MENTIONS(with("lora_alpha", "many"), "lora_alpha");
  EXPECT_MENTIONS(with("alpha_pattern", Json::array({1})), "alpha_pattern");
  EXPECT_MENTIONS(with("alpha_pattern", {{"(", 1}}), "alpha_pattern");
}

TEST_F(AdapterTest, RefusesOtherTensors) {
  const Shape a = {2, 8}, b = {4, 2};
  EXPECT_EQ(with_tensors({{"m.lora_A.weight", a}, {"m.lora_B.weight", b}}), "");
  for (const char* name : {"m.lora_embedding_A", "m.lora_magnitude_vector.weight", "m.lora_B.bias", "m.weight",
                           "lora_A.weight", ".lora_A.weight"}) {
    EXPECT_MENTIONS(with_tensors({{"m.lora_A.weight", a}, {"m.lora_B.weight", b}, {name, b}}), name);
  }
  EXPECT_MENTIONS(with_tensors({}), "no low-rank matrices");
  EXPECT_MENTIONS(with_tensors({{"m.lora_A.weight", a}}), "m: expected lora_A");
  EXPECT_MENTIONS(with_tensors({{"m.lora_A.weight", a}, {"m.lora_B.weight", {4, 3}}}), "[4, 3]");
  EXPECT_MENTIONS(with_tensors({{"m.lora_A.weight", {0, 8}}, {"m.lora_B.weight", {4, 0}}}), "m: expected lora_A");
  EXPECT_MENTIONS(with_tensors({{"m.lora_A.weight", a}, {"m.lora_B.weight", b}}, DType::kI32), "i32");
}

TEST_F(AdapterTest, SurvivesDamagedFiles) {
  fs::remove(directory_ / "adapter_config.json");
  EXPECT_MENTIONS(refusal(), "adapter_config.json");
  std::mt19937 random(3);
  for (const std::string name : {"adapter_config.json", "adapter_model.safetensors"}) {
    const std::string whole = read_text_file(kUpper / name);
    for (const size_t length : {size_t{0}, size_t{7}, size_t{100}, whole.size() / 2, whole.size() - 1}) {
      write("adapter_config.json", config_.dump());
      write(name, whole.substr(0, length));
      EXPECT_NE(refusal(), "") << name << " cut to " << length;
    }
    for (int i = 0; i < 100; ++i) {
      std::string damaged = whole;
      for (int j = 0; j < 3; ++j)
        damaged[random() % std::min<size_t>(whole.size(), 9000)] = static_cast<char>(random());
      write("adapter_config.json", config_.dump());
      write(name, damaged);
      refusal();  // an error or an adapter, no crash
    }
    write(name, whole);
  }
}

TEST_F(AdapterTest, FollowsChannelScales) {
  const auto tensor = [](const Shape& shape, const std::vector<float>& v) {
    return Tensor::from_floats(DType::kF32, shape, v);
  };
  const Adapter original = {{"m", {tensor({1, 3}, {1, 2, 3}), tensor({2, 1}, {8, 9}), 1}}};
  const auto write_scales = [&](const std::string& name, const std::vector<float>& scales) {
    SafetensorsWriter writer(directory_ / kChannelScalesFile);
    const Tensor values = tensor({static_cast<int64_t>(scales.size())}, scales);
    writer.declare(name, values.dtype(), values.shape());
    writer.write(name, values);
    writer.commit();
  };
  Adapter adapter = original;
  write_scales("m.input", {2, 4, 8});
  follow_channel_scales(directory_ / kChannelScalesFile, adapter);
  EXPECT_EQ(adapter.at("m").a.to_floats(), (std::vector<float>{2, 8, 24}));
  write_scales("m.output", {2, 3});
  follow_channel_scales(directory_ / kChannelScalesFile, adapter);
  EXPECT_EQ(adapter.at("m").b.to_floats(), (std::vector<float>{4, 3}));
  for (const char* name : {"m.input", "m.output"}) {
    write_scales(name, {1, 2, 3, 4});
    EXPECT_THROW(follow_channel_scales(directory_ / kChannelScalesFile, adapter), Error) << name;
  }
}

TEST_F(AdapterTest, MergedWeights) {
  const fs::path merged = directory_ / "merged";
  const MergeRequest request{kModels / "edge-tiny-16m", kUpper, merged, DType::kF32};
  EXPECT_EQ(merge_adapter(request), 32u);
  const Checkpoint base = Checkpoint::open(kModels / "edge-tiny-16m");
  const Checkpoint found = Checkpoint::open(merged);
  EXPECT_EQ(found.config().at("dtype"), "float32");
  EXPECT_EQ(found.tensor_names(), base.tensor_names());
  const LowRank weights = read_adapter(kUpper).at("model.layers.2.self_attn.v_proj");
  const auto w = base.tensor("model.layers.2.self_attn.v_proj.weight").to_floats();
  const auto y = found.tensor("model.layers.2.self_attn.v_proj.weight").to_floats();
  const auto a = weights.a.to_floats(), b = weights.b.to_floats();
  for (const size_t i : {0u, 5u, 127u}) {
    for (const size_t j : {0u, 100u, 383u}) {
      double sum = 0;
      for (size_t r = 0; r < 8; ++r) sum += double{b[i * 8 + r]} * a[r * 384 + j];
      EXPECT_FLOAT_EQ(y[i * 384 + j], static_cast<float>(w[i * 384 + j] + 4 * sum));
    }
  }
  EXPECT_EQ(found.tensor("model.norm.weight").to_floats(), base.tensor("model.norm.weight").to_floats());
}

TEST_F(AdapterTest, MergeUntiesTheHead) {
  EXPECT_EQ(with_tensors({{"lm_head.lora_A.weight", {2, 384}}, {"lm_head.lora_B.weight", {8192, 2}}}), "");
  merge_adapter({kModels / "edge-tiny-16m", directory_, directory_ / "merged", {}});
  const Checkpoint found = Checkpoint::open(directory_ / "merged");
  EXPECT_EQ(found.config().at("tie_word_embeddings"), false);
  EXPECT_EQ(found.tensor("lm_head.weight").to_floats(), found.tensor("model.embed_tokens.weight").to_floats());
  const auto refused = [&](const std::map<std::string, Shape>& shapes, const std::string& mentions) {
    EXPECT_EQ(with_tensors(shapes), "");
    try {
      merge_adapter({kModels / "edge-tiny-16m", directory_, directory_ / "other", {}});
      ADD_FAILURE() << mentions << " was taken";
    } catch (const Error& error) {
      EXPECT_MENTIONS(std::string(error.what()), mentions);
    }
  };
  refused({{"lm_head.lora_A.weight", {2, 384}}, {"lm_head.lora_B.weight", {8000, 2}}}, "[8192, 384]");
  refused({{"model.wing.lora_A.weight", {2, 384}}, {"model.wing.lora_B.weight", {8, 2}}}, "model.wing");
  refused({{"model.embed_tokens.lora_A.weight", {2, 384}}, {"model.embed_tokens.lora_B.weight", {8192, 2}}},
          "model.embed_tokens");
}

}  // namespace
}  // namespace edgewise
