// Reduced vocabularies: the file, the choice of tokens, the head's rows, and sampling with original ids.
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <random>

#include "backends/sequence_runner.h"
#include "base/error.h"
#include "base/mapped_file.h"
#include "formats/safetensors.h"
#include "models/families.h"
#include "models/vocab_map.h"
#include "quantize/reduce_vocab.h"
#include "runtime/sampler.h"
#include "text/tokenizer.h"

namespace edgewise {
namespace {
namespace fs = std::filesystem;

const fs::path kSource = EDGEWISE_SOURCE_DIR;

class VocabTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() / ("edgewise-vocab-" + std::to_string(::getpid()));
    fs::create_directories(directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }
  fs::path file() const { return directory_ / kVocabMapFile; }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(directory_ / name, std::ios::binary) << text;
  }
  void write_tensor(const std::string& name, const Tensor& tensor) const {
    SafetensorsWriter writer(file());
    writer.declare(name, tensor.dtype(), tensor.shape());
    writer.write(name, tensor);
    writer.commit();
  }
  fs::path directory_;
};

TEST_F(VocabTest, FileReadsBackAndBadOnesAreRefused) {
  const std::vector<int32_t> kept = {0, 3, 4, 99};
  write_vocab_map(file(), kept);
  EXPECT_EQ(read_vocab_map(file(), 100), kept);
  EXPECT_THROW(read_vocab_map(file(), 99), Error);  // token 99 does not exist
  const std::string whole = read_text_file(file());
  for (size_t length = 0; length < whole.size(); ++length) {
    write(kVocabMapFile, whole.substr(0, length));
    EXPECT_THROW(read_vocab_map(file(), 100), Error) << length;
  }
  std::mt19937 random(2);
  for (int i = 0; i < 300; ++i) {
    std::string damaged = whole;
    damaged[random() % whole.size()] = static_cast<char>(random());
    write(kVocabMapFile, damaged);
    try {
      const auto ids = read_vocab_map(file(), 100);
      EXPECT_TRUE(std::ranges::is_sorted(ids) && ids.front() >= 0 && ids.back() < 100);
    } catch (const Error&) {
    }
  }
  const auto refused = [&](const std::string& name, const Tensor& tensor) {
    write_tensor(name, tensor);
    EXPECT_THROW(read_vocab_map(file(), 100), Error) << name;
  };
  refused("vocab_map", Tensor::from_int64({2}, std::vector<int64_t>{4, 4}));
  refused("vocab_map", Tensor::from_int64({2}, std::vector<int64_t>{4, 3}));
  refused("vocab_map", Tensor::from_int64({1}, std::vector<int64_t>{-1}));
  refused("vocab_map", Tensor::from_int64({1}, std::vector<int64_t>{int64_t{1} << 40}));
  refused("vocab_map", Tensor::from_int64({1, 2}, std::vector<int64_t>{1, 2}));
  refused("vocab_map", Tensor::zeros(DType::kI64, {0}));
  refused("vocab_map", Tensor::from_floats(DType::kF32, {1}, std::vector<float>{1}));
  refused("other", Tensor::from_int64({1}, std::vector<int64_t>{1}));
}

TEST_F(VocabTest, ChoosesWhatTheTaskSays) {
  const fs::path model = kSource / "models/edge-tiny-16m";
  const Tokenizer tokenizer = Tokenizer::load(model / "tokenizer.json");
  const auto id = [&](const std::string& token) { return tokenizer.token_to_id(token).value(); };
  // " river" stands in prompts only, " mountain" three times in answers, once as an echo; " house" is said unprompted.
  write(
      "chats.jsonl",
      R"({"messages": [{"role": "user", "content": "the river river river mountain"}, {"role": "assistant", "content": "the mountain mountain mountain"}]})"
      "\n"
      R"({"messages": [{"role": "user", "content": "the river"}, {"role": "assistant", "content": "the house"}]})"
      "\n");
  ReduceVocabRequest request;
  request.model_dir = model;
  request.output_dir = directory_ / "out";
  request.dataset = directory_ / "chats.jsonl";
  request.coverage_text = directory_ / "chats.jsonl";
  request.size = 1;
  EXPECT_THROW(reduce_vocabulary(request), Error);
  request.size = 9000;
  EXPECT_THROW(reduce_vocabulary(request), Error);
  request.size = 8192;
  const auto all = reduce_vocabulary(request);
  EXPECT_EQ(all.kept, 8192);
  EXPECT_EQ(all.coverage.at(1).covered, all.coverage.at(1).tokens);
  EXPECT_EQ(all.coverage.at(0).complete, 2);
  const auto keeps = [&](const std::string& method, int64_t more) {
    request.method = method;
    request.size = all.protected_tokens + more;
    EXPECT_EQ(reduce_vocabulary(request).kept, request.size);
    const auto kept = read_vocab_map(request.output_dir / kVocabMapFile, 8192);
    for (const char* byte : {"a", "Z", "0", "\u00c3", "\u0120"})
      EXPECT_TRUE(std::ranges::binary_search(kept, id(byte)));
    EXPECT_TRUE(std::ranges::binary_search(kept, id("<|im_end|>")));
    return [=, &tokenizer](const std::string& token) {
      return std::ranges::binary_search(kept, tokenizer.token_to_id(token).value());
    };
  };
  const auto frequent = keeps("frequency", 3);  // "the", " river" and " mountain" four times each
  EXPECT_TRUE(frequent("\u0120river") && frequent("\u0120mountain") && !frequent("\u0120house"));
  const auto aware = keeps("input_aware", 1);
  EXPECT_TRUE(aware("\u0120house") && !aware("\u0120river"));
  request.method = "by_luck";
  EXPECT_THROW(reduce_vocabulary(request), Error);
  write("plain.txt", "the river\n\nthe house\n");
  request.dataset = directory_ / "plain.txt";
  request.method = "frequency";
  EXPECT_EQ(reduce_vocabulary(request).coverage.at(0).answers, 2);
  request.method = "input_aware";  // without prompts
  EXPECT_THROW(reduce_vocabulary(request), Error);
  for (const char* bad : {"", "{", "{}", R"({"messages": 3})", R"({"messages": [3]})", R"({"text": 4})"}) {
    write("plain.txt", bad);
    EXPECT_THROW(reduce_vocabulary(request), Error) << bad;
  }
}

// The reduced head's logits are those of the whole one, tied or not, with and without a bias.
TEST_F(VocabTest, HeadKeepsItsRows) {
  for (const char* family : {"qwen3", "phi2", "gemma2", "llama2"}) {
    const Checkpoint checkpoint = Checkpoint::open(kSource / "tests/data/checkpoints" / family);
    const DecoderSpec spec = describe_model(checkpoint.config(), checkpoint.config_path());
    const std::vector<int32_t> kept = {0, 1, 7, 100, static_cast<int32_t>(spec.vocabulary) - 1};
    const auto logits = [&](const std::vector<int32_t>& tokens, int64_t count) {
      const Graph graph = build_decoder(spec, checkpoint, {DType::kF32, {}, tokens});
      const auto executable =
          find_backend("reference")
              .load(graph, {.max_tokens = 8, .max_rows = 8, .kv_pages = 1, .kv_dtype = DType::kF32});
      SequenceRunner runner(*executable, count, 8, 8);
      return runner.append({3, 5, 200, 9}, 4);
    };
    const auto whole = logits({}, spec.vocabulary);
    const auto some = logits(kept, 5);
    for (size_t row = 0; row < 4; ++row) {
      for (size_t i = 0; i < 5; ++i)
        EXPECT_EQ(some[row * 5 + i], whole[row * static_cast<size_t>(spec.vocabulary) + static_cast<size_t>(kept[i])])
            << family;
    }
  }
}

TEST(ReducedSampler, SpeaksOriginalIds) {
  const std::vector<int32_t> kept = {2, 10, 50};
  const LogitTokens tokens(100, kept);
  EXPECT_EQ(tokens.count(), 3u);
  EXPECT_EQ(tokens.index(10), 1);
  EXPECT_EQ(tokens.index(11), -1);
  EXPECT_EQ(tokens.index(-1), -1);
  EXPECT_EQ(LogitTokens(100).index(100), -1);
  const auto sample = [&](const SamplingOptions& options, const std::vector<int32_t>& prompt) {
    std::vector<float> logits = {1, 3, 2};
    return Sampler(options, tokens, prompt).sample(logits);
  };
  SamplingOptions plain, biased, penalized, reported;
  EXPECT_EQ(sample(plain, {}), 10);
  biased.logit_bias = {{50, 5.0f}, {11, 100.0f}};  // 11 has no logit
  EXPECT_EQ(sample(biased, {}), 50);
  penalized.repetition_penalty = 2;
  EXPECT_EQ(sample(penalized, {10, 77}), 50);
  EXPECT_EQ(sample(penalized, {1}), 10);
  reported.num_logprobs = 2;
  std::vector<float> logits = {1, 3, 2};
  Sampler sampler(reported, tokens, {});
  EXPECT_EQ(sampler.sample(logits), 10);
  EXPECT_EQ(sampler.last_alternatives()[0].token, 10);
  EXPECT_EQ(sampler.last_alternatives()[1].token, 50);
  EXPECT_EQ(sampler.last_alternatives()[0].logprob, sampler.last_logprob());
}

}  // namespace
}  // namespace edgewise
