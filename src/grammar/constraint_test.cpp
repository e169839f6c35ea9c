// Masks, states, and outputs: over the schemas of tests/data/grammar.
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/mapped_file.h"
#include "grammar/grammar_test_support.h"
#include "grammar/test_validator.h"

namespace edgewise::grammar_test {
namespace {

using Status = ConstraintState::Status;

const std::vector<OrderedJson>& corpus() {
  static const std::vector<OrderedJson> cases = [] {
    std::vector<OrderedJson> out;
    for (const char* file : {"tools", "objects", "configs", "whole"}) {
      const std::string path = std::string(EDGEWISE_SOURCE_DIR) + "/tests/data/grammar/schemas/" + file + ".json";
      for (const OrderedJson& item : parse_ordered_json(read_text_file(path), path)) out.push_back(item);
    }
    return out;
  }();
  return cases;
}

TEST(Corpus, HasAFewHundredSchemasAndAcceptsTheirInstances) {
  ASSERT_GE(corpus().size(), 200u);
  for (const OrderedJson& item : corpus()) {
    const auto grammar = tiny().compiler.compile_json_schema(item.at("schema"));
    const Json schema = item.at("schema");
    for (const OrderedJson& instance : item.at("instances")) {
      EXPECT_EQ(Validator(schema).check(Json(instance)), "") << item.at("name");
      for (const int indent : {-1, 2}) EXPECT_TRUE(matches(tiny(), grammar, instance.dump(indent))) << item.at("name");
    }
  }
}

void expect_valid(const Model& model, const OrderedJson& item, std::mt19937& random, size_t patience) {
  const auto grammar = model.compiler.compile_json_schema(item.at("schema"));
  const Walk walk = random_walk(model, grammar, random, patience);
  ASSERT_TRUE(walk.finished) << item.at("name") << ": " << walk.text.substr(0, 300);
  Json value;
  ASSERT_NO_THROW(value = parse_json(walk.text, "output")) << walk.text;
  EXPECT_EQ(Validator(Json(item.at("schema"))).check(value), "") << item.at("name") << "\n" << walk.text;
}

TEST(RandomWalk, AlwaysEndsInAValidText) {
  std::mt19937 random(11);
  for (const OrderedJson& item : corpus()) {
    for (const size_t patience : {5, 60}) expect_valid(tiny(), item, random, patience);
  }
}

TEST(RandomWalk, AlwaysEndsInAValidTextOtherVocabularies) {
  std::mt19937 random(12);
  for (size_t i = 0; i < corpus().size(); i += 5) {
    expect_valid(gpt2(), corpus()[i], random, 30);
    expect_valid(llama(), corpus()[i], random, 30);
  }
}

// Each token tried on a copy.
void expect_exact_mask(const Model& model, const Grammar& grammar, ConstraintState& state) {
  std::vector<uint64_t> bits(grammar->mask_words());
  const bool some = state.fill_mask(bits);
  EXPECT_EQ(some, !allowed_tokens(bits).empty());
  for (int32_t token = 0; token < model.vocabulary; ++token) {
    ConstraintState copy = state;
    ASSERT_EQ(copy.accept(token), has_bit(bits, token)) << "token " << token;
  }
}

void expect_exact_masks(const Model& model, const Grammar& grammar, std::mt19937& random) {
  const Walk walk = random_walk(model, grammar, random, 12);
  ConstraintState state(grammar);
  const size_t checks = std::max<size_t>(walk.tokens.size() / 3, 1);
  for (const int32_t token : walk.tokens) {
    if (random() % checks == 0) expect_exact_mask(model, grammar, state);
    ASSERT_TRUE(state.accept(token));
  }
}

TEST(Mask, EqualsBruteForceOnSchemas) {
  std::mt19937 random(21);
  for (const OrderedJson& item : corpus()) {
    SCOPED_TRACE(item.at("name").get<std::string>());
    expect_exact_masks(tiny(), tiny().compiler.compile_json_schema(item.at("schema")), random);
  }
  for (const char* schema :
       {R"({"type":"string","minLength":2,"maxLength":3})", R"({"type":"string","maxLength":20})",
        R"({"type":"string","minLength":1,"maxLength":1})", R"({"type":"string","minLength":30})",
        R"({"anyOf":[{"type":"string","maxLength":18},{"type":"string","pattern":"^[a-f ]*$"}]})"}) {
    SCOPED_TRACE(schema);
    for (const Model* model : {&tiny(), &gpt2(), &llama()}) {
      for (int i = 0; i < 2; ++i) expect_exact_masks(*model, model->compiler.compile_json_schema_text(schema), random);
    }
  }
}

TEST(Mask, EqualsBruteForceOnTexts) {
  std::mt19937 random(22);
  for (const char* pattern : {"[a-z ]+\\.", ".*", "(\\w+ ){3,5}end", "[^x]{5,40}x?", "\\S+@\\S+"}) {
    SCOPED_TRACE(pattern);
    const auto grammar = llama().compiler.compile_regex(pattern);
    ConstraintState state(grammar);
    std::vector<uint64_t> bits(grammar->mask_words());
    for (int step = 0; step < 6; ++step) {
      expect_exact_mask(llama(), grammar, state);
      ASSERT_TRUE(state.fill_mask(bits));
      const auto allowed = allowed_tokens(bits);
      if (!state.accept(allowed[random() % allowed.size()]) || state.status() != Status::kRunning) break;
    }
  }
  expect_exact_masks(tiny(), tiny().compiler.compile_ebnf("root ::= \"(\" root* \")\" | [a-z]+"), random);
}

TEST(Mask, EndTokensExactlyWhenComplete) {
  const auto grammar = tiny().compiler.compile_regex("ab?");
  ConstraintState state(grammar);
  std::vector<uint64_t> bits(grammar->mask_words(), ~uint64_t{0});
  ASSERT_TRUE(state.fill_mask(bits));
  EXPECT_FALSE(has_bit(bits, tiny().end));
  EXPECT_FALSE(state.accept(tiny().end));
  ASSERT_TRUE(state.accept(tiny().tokenizer.encode("a", false)[0]));
  EXPECT_TRUE(state.can_end());
  EXPECT_FALSE(state.must_end());
  ASSERT_TRUE(state.accept(tiny().tokenizer.encode("b", false)[0]));
  EXPECT_TRUE(state.must_end());
  ASSERT_TRUE(state.fill_mask(bits));
  EXPECT_EQ(allowed_tokens(bits), std::vector<int32_t>{tiny().end});
  ASSERT_TRUE(state.accept(tiny().end));
  EXPECT_EQ(state.status(), Status::kFinished);
  EXPECT_FALSE(state.fill_mask(bits));
  EXPECT_TRUE(allowed_tokens(bits).empty());
  EXPECT_FALSE(state.accept(tiny().end));
}

TEST(Mask, NeverAllowsSpecialOrUnusedTokens) {
  const auto grammar = tiny().compiler.compile_regex("[^]*");
  ConstraintState state(grammar);
  std::vector<uint64_t> bits(grammar->mask_words());
  ASSERT_TRUE(state.fill_mask(bits));
  for (int32_t token = 0; token < tiny().vocabulary; ++token) {
    if (token == tiny().end) continue;
    const bool text = tiny().tokenizer.token_bytes(token).has_value();
    EXPECT_TRUE(text || !has_bit(bits, token)) << token;
  }
  for (const int32_t token : {-1, tiny().vocabulary, tiny().vocabulary + 5}) EXPECT_FALSE(state.accept(token));
}

TEST(State, RollbackEqualsReplay) {
  std::mt19937 random(31);
  for (size_t i = 0; i < corpus().size(); i += 3) {
    const auto grammar = tiny().compiler.compile_json_schema(corpus()[i].at("schema"));
    const Walk walk = random_walk(tiny(), grammar, random, 20);
    ConstraintState state(grammar);
    for (const int32_t token : walk.tokens) ASSERT_TRUE(state.accept(token));
    const size_t back = random() % (walk.tokens.size() + 1);
    state.rollback(back);
    ConstraintState replay(grammar);
    for (size_t t = 0; t + back < walk.tokens.size(); ++t) ASSERT_TRUE(replay.accept(walk.tokens[t]));
    EXPECT_EQ(state.accepted(), replay.accepted());
    EXPECT_EQ(state.status(), replay.status());
    std::vector<uint64_t> left(grammar->mask_words());
    std::vector<uint64_t> right(grammar->mask_words());
    EXPECT_EQ(state.fill_mask(left), replay.fill_mask(right));
    EXPECT_EQ(left, right);
    state.rollback(1000000);
    EXPECT_EQ(state.accepted(), 0u);
  }
}

TEST(State, ForcedBytesAreTheOnlyWayOn) {
  const auto grammar = tiny().compiler.compile_json_schema_text(
      R"({"type":"object","properties":{"kind":{"const":"circle"}},"required":["kind"]})");
  ConstraintState state(grammar);
  EXPECT_EQ(state.forced_bytes(), "{");  // then a space may come
  for (const int32_t token : tiny().tokenizer.encode("{\"", false)) ASSERT_TRUE(state.accept(token));
  EXPECT_EQ(state.forced_bytes(), "kind\":");
  EXPECT_EQ(ConstraintState(tiny().compiler.compile_regex("abc|abd")).forced_bytes(), "ab");
  EXPECT_EQ(ConstraintState(tiny().compiler.compile_regex("a{9000}")).forced_bytes(), std::string(4096, 'a'));
}

TEST(ValuesInText, AreHeldToTheirSchema) {
  const OrderedJson schema = parse_ordered_json(
      R"({"type": "object", "properties": {"name": {"const": "f"}, "arguments": {"type": "integer"}},
          "required": ["name", "arguments"]})",
      "test");
  const std::string call = R"({"name": "f", "arguments": 12})";
  const auto marked = tiny().compiler.compile_json_schema_within_text(schema, {"<call>", "</call>", ""});
  for (const std::string& text :
       {std::string(), std::string("Any {text} < here \xC3\xA9."), "<call>" + call + "</call>",
        "Well <call>\n" + call + "\n</call> and <call>" + call + " </call>\n"}) {
    EXPECT_TRUE(matches(tiny(), marked, text)) << text;
  }
  for (const std::string& text : {std::string("<call>"), "<call>" + call, std::string("<call>{}</call>")}) {
    EXPECT_FALSE(matches(tiny(), marked, text)) << text;
  }
  const auto bare = tiny().compiler.compile_json_schema_within_text(schema, {"", "", ";"});
  for (const std::string& text : {std::string(), std::string("No {call}"), call, " " + call, call + "; " + call}) {
    EXPECT_TRUE(matches(tiny(), bare, text)) << text;
  }
  for (const std::string& text : {std::string("{}"), std::string("\t{}"), call + " " + call, std::string("[1]")}) {
    EXPECT_FALSE(matches(tiny(), bare, text)) << text;
  }
}

TEST(State, AVocabularyThatCannotSpellTheTextFailsVisibly) {
  const Tokenizer tokenizer = Tokenizer::parse(
      R"({"version": "1.0", "decoder": {"type": "Fuse"}, "model": {"type": "WordLevel", "unk_token": "a",
          "vocab": {"a": 0, "b": 1}}})",
      "small.json");
  const GrammarCompiler compiler(tokenizer, 4, {3});
  ConstraintState state(compiler.compile_regex("ac|b"));
  std::vector<uint64_t> bits(1);
  ASSERT_TRUE(state.fill_mask(bits));
  EXPECT_EQ(bits[0], 3u);
  ASSERT_TRUE(state.accept(0));
  EXPECT_FALSE(state.fill_mask(bits));
  EXPECT_EQ(state.status(), Status::kFailed);
  EXPECT_FALSE(state.error().empty());
  state.rollback(1);
  EXPECT_EQ(state.status(), Status::kRunning);
  ASSERT_TRUE(state.accept(1));
  EXPECT_TRUE(state.must_end());
}

TEST(State, OneGrammarServesThreads) {
  const auto grammar = tiny().compiler.compile_json_value();
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&, seed] {
      std::mt19937 random(seed);
      for (int i = 0; i < 5; ++i) {
        const Walk walk = random_walk(tiny(), grammar, random, 20);
        EXPECT_TRUE(walk.finished && Json::accept(walk.text)) << walk.text;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(TokenBytes, OfTheThreeVocabularies) {
  const auto bytes_of = [](const Model& model, const char* token) {
    return model.tokenizer.token_bytes(*model.tokenizer.token_to_id(token));
  };
  EXPECT_EQ(bytes_of(gpt2(), "\xC4\xA0the"), " the");
  EXPECT_EQ(bytes_of(gpt2(), "\xC4\x8A"), "\n");
  EXPECT_EQ(bytes_of(llama(), "\xE2\x96\x81the"), " the");
  EXPECT_EQ(bytes_of(llama(), "<0x0A>"), "\n");
  EXPECT_EQ(bytes_of(llama(), "<0xFF>"), "\xFF");
  EXPECT_EQ(bytes_of(llama(), "</s>"), std::nullopt);
  EXPECT_EQ(bytes_of(gpt2(), "<|endoftext|>"), std::nullopt);
  EXPECT_EQ(llama().tokenizer.token_bytes(10000000), std::nullopt);
  const Tokenizer pieces = Tokenizer::parse(
      R"({"version": "1.0", "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
          "model": {"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##",
                    "max_input_chars_per_word": 100, "vocab": {"a": 0}}})",
      "pieces.json");
  EXPECT_THROW(pieces.token_bytes(0), Error);
}

}  // namespace
}  // namespace edgewise::grammar_test
