#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "formats/json.h"
#include "text/stream_decoder.h"

namespace edgewise {
namespace {

const std::filesystem::path kRoot = EDGEWISE_SOURCE_DIR;

std::vector<int32_t> ids_of(const Json& list) {
  return list.get<std::vector<int32_t>>();
}

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
  const auto folder = kRoot / "tests/data/tokenizers" / GetParam();
  const Tokenizer tokenizer = Tokenizer::load(folder / "tokenizer.json");
  const Json goldens = read_json_file(folder / "golden.json");
  ASSERT_GT(goldens.size(), 100u);
  for (const Json& golden : goldens) check_golden(tokenizer, golden);
}

INSTANTIATE_TEST_SUITE_P(All, RealTokenizer, testing::Values("gpt2", "llama2"));

}  // namespace
}  // namespace edgewise
