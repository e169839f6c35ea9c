// Broken, hostile and unsupported tokenizer.json files.
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "base/error.h"
#include "base/mapped_file.h"
#include "formats/json.h"
#include "text/stream_decoder.h"
#include "text/tokenizer.h"

namespace edgewise {
namespace {

const std::string kComponents = std::string(EDGEWISE_TEST_DATA) + "/tokenizers/components.json";
constexpr std::string_view kText = "Hello <s> w\xC3\xB6rld 123,  \xE4\xBD\xA0\xE5\xA5\xBD <mask>!\n";

// The whole range of use; must throw Error or succeed.
void exercise(const std::string& json) {
  try {
    const Tokenizer tokenizer = Tokenizer::parse(json, "test.json");
    const auto ids = tokenizer.encode(kText, true);
    tokenizer.decode(ids, true);
    StreamDecoder decoder(tokenizer, false);
    for (int32_t id = 0; id < 50; ++id) decoder.push(id);
    decoder.flush();
  } catch (const Error& error) {
    EXPECT_NE(error.kind(), ErrorKind::kInternal) << error.what();
  }
}

std::vector<std::string> component_files() {
  const Json data = read_json_file(kComponents);
  std::vector<std::string> files;
  for (const Json& item : data.at("cases")) {
    Json file = item.at("file");
    file["model"] = data.at("models").at(file.at("model").get<std::string>());
    files.push_back(file.dump());
  }
  return files;
}

TEST(BrokenFile, TruncatedAnywhere) {
  std::mt19937 random(1);
  for (const std::string& file : component_files()) {
    for (int i = 0; i < 3; ++i) {
      EXPECT_THROW(Tokenizer::parse(file.substr(0, random() % (file.size() - 1)), "cut.json"), Error);
    }
  }
}

TEST(BrokenFile, CorruptedBytes) {
  std::mt19937 random(2);
  constexpr std::string_view kAlphabet = "{}[]\",:0123456789-.eE \\xtrufalsn\xC3\xA9";
  for (const std::string& file : component_files()) {
    for (int i = 0; i < 3; ++i) {
      std::string broken = file;
      for (int changes = 1 + random() % 4; changes > 0; --changes) {
        broken[random() % broken.size()] = kAlphabet[random() % kAlphabet.size()];
      }
      exercise(broken);
    }
  }
}

// Replaces one value in the tree by something else.
void mutate(Json& node, std::mt19937& random) {
  if (node.is_structured() && !node.empty() && random() % 8 != 0) {
    auto child = node.begin();
    std::advance(child, random() % std::min<size_t>(node.size(), 40));
    return mutate(*child, random);
  }
  const Json replacements[] = {nullptr,
                               true,
                               -1,
                               0,
                               1e300,
                               3000000000u,
                               "",
                               "x",
                               "\xE2\x96\x81",
                               Json::array(),
                               Json::object(),
                               Json::array({1, "a"}),
                               "(a*)*b",
                               "[",
                               Json{{"type", "Sequence"}}};
  node = replacements[random() % std::size(replacements)];
}

TEST(BrokenFile, WrongValues) {
  std::mt19937 random(3);
  for (const std::string& file : component_files()) {
    for (int i = 0; i < 6; ++i) {
      Json document = Json::parse(file);
      mutate(document, random);
      exercise(document.dump());
    }
  }
}

Json minimal() {
  return Json::parse(
      R"({"version": "1.0", "model": {"type": "WordLevel", "unk_token": "u", "vocab": {"u": 0, "a": 1}}})");
}

ErrorKind kind_of(const Json& file, std::string& message) {
  try {
    Tokenizer::parse(file.dump(), "name.json").encode(kText, true);
  } catch (const Error& error) {
    message = error.what();
    return error.kind();
  }
  ADD_FAILURE() << "no error for " << file.dump();
  return ErrorKind::kInternal;
}

TEST(BrokenFile, UnknownTypesNameTheirPlace) {
  const Json odd = {{"type", "Odd"}};
  const std::pair<const char*, Json> sections[] = {{"normalizer", {{"type", "Sequence"}, {"normalizers", {odd}}}},
                                                   {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {odd}}}},
                                                   {"decoder", {{"type", "Sequence"}, {"decoders", {odd}}}},
                                                   {"post_processor", {{"type", "Sequence"}, {"processors", {odd}}}}};
  for (const auto& [section, value] : sections) {
    Json file = minimal();
    file[section] = value;
    std::string message;
    EXPECT_EQ(kind_of(file, message), ErrorKind::kUnsupported) << message;
    for (const char* part : {"name.json", section, "[0]", "Odd"})
      EXPECT_NE(message.find(part), std::string::npos) << message;
  }
  Json file = minimal();
  file["model"]["type"] = "Odd";
  std::string message;
  EXPECT_EQ(kind_of(file, message), ErrorKind::kUnsupported) << message;
}

TEST(BrokenFile, GrowthIsBounded) {
  Json file = minimal();
  Json steps = Json::array();
  for (int i = 0; i < 40; ++i) {
    steps.push_back({{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aaaaaaaaaa"}});
  }
  file["normalizer"] = {{"type", "Sequence"}, {"normalizers", steps}};
  std::string message;
  file["model"]["vocab"] = {{"u", 0}, {"l", 1}};
  Json list = {{"type", "Replace"}, {"pattern", {{"String", "l"}}}, {"content", "a"}};
  file["normalizer"]["normalizers"].insert(file["normalizer"]["normalizers"].begin(), list);
  EXPECT_EQ(kind_of(file, message), ErrorKind::kUnsupported) << message;

  Json bytes = Json::array();
  for (int i = 0; i < 60; ++i)
    bytes.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}});
  file = minimal();
  file["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", bytes}};
  EXPECT_EQ(kind_of(file, message), ErrorKind::kUnsupported) << message;

  file = minimal();
  file["decoder"] = {{"type", "Sequence"}, {"decoders", steps}};
  const Tokenizer tokenizer = Tokenizer::parse(file.dump(), "name.json");
  EXPECT_THROW(tokenizer.decode(std::vector<int32_t>{1, 1, 1}, false), Error);
}

TEST(BrokenFile, CatastrophicRegularExpressionsEnd) {
  Json file = minimal();
  file["pre_tokenizer"] = {
      {"type", "Split"}, {"pattern", {{"Regex", "(x+x+)+y"}}}, {"behavior", "Isolated"}, {"invert", false}};
  const Tokenizer tokenizer = Tokenizer::parse(file.dump(), "name.json");
  EXPECT_THROW(tokenizer.encode(std::string(200, 'x') + "zy", false), Error);
}

TEST(BrokenFile, HugeIdsCostNothing) {
  Json file = minimal();
  file["model"]["vocab"]["far"] = 2147483646;
  const Tokenizer tokenizer = Tokenizer::parse(file.dump(), "name.json");
  EXPECT_EQ(tokenizer.vocab_size(), 2147483647);
  EXPECT_EQ(tokenizer.id_to_token(2147483646), "far");
  EXPECT_EQ(tokenizer.encode("far", false), std::vector<int32_t>{2147483646});
  std::string message;
  file["model"]["vocab"]["far"] = 2147483648u;
  EXPECT_EQ(kind_of(file, message), ErrorKind::kBadFile);
}

TEST(BrokenFile, DropoutIsRefused) {
  Json file = minimal();
  file["model"] = {{"type", "BPE"}, {"dropout", 0.1}, {"vocab", Json::object()}, {"merges", Json::array()}};
  std::string message;
  EXPECT_EQ(kind_of(file, message), ErrorKind::kUnsupported);
  EXPECT_NE(message.find("dropout"), std::string::npos);
}

}  // namespace
}  // namespace edgewise
