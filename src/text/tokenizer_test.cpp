#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/mapped_file.h"
#include "formats/json.h"
#include "text/stream_decoder.h"

namespace edgewise {
namespace {

const std::filesystem::path kRoot = EDGEWISE_SOURCE_DIR;
const std::filesystem::path kData = std::filesystem::path(EDGEWISE_TEST_DATA) / "tokenizers";

std::vector<int32_t> ids_of(const Json& list) { return list.get<std::vector<int32_t>>(); }

std::string stream_decode(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip) {
  StreamDecoder decoder(tokenizer, skip);
  std::string text;
  for (const int32_t id : ids) text += decoder.push(id);
  return text + decoder.flush();
}

// The goldens were written by the Hugging Face library.
void check_golden(const Tokenizer& tokenizer, const Json& golden) {
  const auto text = golden.at("text").get<std::string>();
  const auto ids = ids_of(golden.at("ids"));
  EXPECT_EQ(tokenizer.encode(text, false), ids) << text;
  EXPECT_EQ(tokenizer.encode(text, true), ids_of(golden.at("ids_with_special"))) << text;
  EXPECT_EQ(tokenizer.decode(ids, false), golden.at("decoded").get<std::string>());
  EXPECT_EQ(tokenizer.decode(ids, true), golden.at("decoded_skip_special").get<std::string>());
  EXPECT_EQ(stream_decode(tokenizer, ids, false), golden.at("decoded").get<std::string>());
}

class RealTokenizer : public testing::TestWithParam<const char*> {};

TEST_P(RealTokenizer, MatchesItsGoldens) {
  const auto folder = kData / GetParam();
  const Tokenizer tokenizer = Tokenizer::load(folder / "tokenizer.json");
  const Json goldens = read_json_file(folder / "golden.json");
  ASSERT_GT(goldens.size(), 100u);
  for (const Json& golden : goldens) check_golden(tokenizer, golden);
}

INSTANTIATE_TEST_SUITE_P(All, RealTokenizer, testing::Values("gpt2", "llama2"));

// null: the library itself fails there.
void expect_text(const std::string& actual, const Json& golden) {
  if (golden.is_null()) return;
  EXPECT_EQ(actual, golden.get<std::string>());
}

void check_encoded(const Tokenizer& tokenizer, const std::string& text, const Json& golden) {
  SCOPED_TRACE(text);
  const auto ids = ids_of(golden.at("ids"));
  const auto with_special = golden.contains("special") ? ids_of(golden.at("special")) : ids;
  EXPECT_EQ(tokenizer.encode(text, false), ids);
  EXPECT_EQ(tokenizer.encode(text, true), with_special);
  expect_text(tokenizer.decode(ids, false), golden.at("text"));
  expect_text(tokenizer.decode(with_special, true), golden.value("skipped", golden.at("text")));
}

void check_decoded(const Tokenizer& tokenizer, const Json& golden) {
  const auto ids = ids_of(golden.at("ids"));
  SCOPED_TRACE(golden.at("ids").dump());
  expect_text(tokenizer.decode(ids, false), golden.at("text"));
  expect_text(tokenizer.decode(ids, true), golden.at("skipped"));
  EXPECT_EQ(stream_decode(tokenizer, ids, false), tokenizer.decode(ids, false));
}

// Small tokenizers that use every component between them; see tools/make_tokenizer_goldens.py.
TEST(Components, MatchTheirGoldens) {
  const Json data = read_json_file(kData / "components.json");
  for (const Json& item : data.at("cases")) {
    SCOPED_TRACE(item.at("name").get<std::string>());
    Json file = item.at("file");
    file["model"] = data.at("models").at(file.at("model").get<std::string>());
    const Tokenizer tokenizer = Tokenizer::parse(file.dump(), "components.json");
    for (size_t i = 0; i < data.at("texts").size(); ++i) {
      check_encoded(tokenizer, data.at("texts")[i].get<std::string>(), item.at("encoded")[i]);
    }
    for (const Json& golden : item.at("decoded")) check_decoded(tokenizer, golden);
  }
}

TEST(Tokenizer, LooksTokensUp) {
  const Tokenizer tokenizer = Tokenizer::load(kRoot / "models/edge-tiny-16m/tokenizer.json");
  EXPECT_EQ(tokenizer.vocab_size(), 8192);
  const auto end = tokenizer.token_to_id("<|im_end|>");
  ASSERT_TRUE(end.has_value());
  EXPECT_TRUE(tokenizer.is_special(*end));
  EXPECT_EQ(tokenizer.id_to_token(*end), "<|im_end|>");
  EXPECT_FALSE(tokenizer.token_to_id("no such token").has_value());
  EXPECT_FALSE(tokenizer.id_to_token(-1).has_value());
  EXPECT_FALSE(tokenizer.id_to_token(1 << 30).has_value());
  EXPECT_FALSE(tokenizer.is_special(5000));
  EXPECT_EQ(tokenizer.encode("<|im_end|>", false), std::vector<int32_t>{*end});
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{*end, -5, 1 << 30}, true), "");
}

TEST(Tokenizer, ReplacesInvalidUtf8) {
  const Tokenizer tokenizer = Tokenizer::load(kRoot / "models/edge-tiny-16m/tokenizer.json");
  const std::string bad = "a\xE2\x82z\xFF\xED\xA0\x80";
  const std::string good = "a\xEF\xBF\xBDz\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD";
  EXPECT_EQ(tokenizer.encode(bad, false), tokenizer.encode(good, false));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(bad, false), false), good);
}

TEST(Tokenizer, EncodesFromSeveralThreads) {
  const Tokenizer gpt2 = Tokenizer::load(kData / "gpt2/tokenizer.json");
  const Tokenizer llama2 = Tokenizer::load(kData / "llama2/tokenizer.json");
  const std::string text = read_text_file(kData / "llama2/golden.json").substr(0, 30000);
  const auto expected_gpt2 = gpt2.encode(text, true);
  const auto expected_llama2 = llama2.encode(text, true);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 3; ++round) {
        EXPECT_EQ(gpt2.encode(text, true), expected_gpt2);
        EXPECT_EQ(llama2.encode(text, true), expected_llama2);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// A word is cut where no merge reaches across; that must not show in the result.
TEST(Tokenizer, LongWordsEqualTheirGoldenForm) {
  const Tokenizer tokenizer = Tokenizer::load(kData / "llama2/tokenizer.json");
  std::string text;
  for (int i = 0; i < 2000; ++i) text += "aab";
  const auto ids = tokenizer.encode(text, false);
  EXPECT_EQ(tokenizer.decode(ids, false), text);
  EXPECT_LT(ids.size(), text.size());
}

}  // namespace
}  // namespace edgewise
