// What the grammar tests share: tokenizers, texts through a constraint, and masks by brute force.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "formats/json.h"
#include "grammar/constraint.h"
#include "text/tokenizer.h"

namespace edgewise::grammar_test {

using Grammar = std::shared_ptr<const CompiledGrammar>;

struct Model {
  Tokenizer tokenizer;
  int32_t vocabulary;
  int32_t end;
  GrammarCompiler compiler;

  Model(const std::filesystem::path& file, const std::string& end_token)
      : tokenizer(Tokenizer::load(file)),
        vocabulary(tokenizer.vocab_size() + 70),  // models pad
        end(*tokenizer.token_to_id(end_token)),
        compiler(tokenizer, vocabulary, {end}) {}
};

// A byte-level vocabulary of 8192 tokens, GPT-2's, and one with byte fallback.
inline const Model& tiny() {
  static const Model model(EDGEWISE_SOURCE_DIR "/models/edge-tiny-16m/tokenizer.json", "<|im_end|>");
  return model;
}
inline const Model& gpt2() {
  static const Model model(EDGEWISE_TEST_DATA "/tokenizers/gpt2/tokenizer.json", "<|endoftext|>");
  return model;
}
inline const Model& llama() {
  static const Model model(EDGEWISE_TEST_DATA "/tokenizers/llama2/tokenizer.json", "</s>");
  return model;
}

inline bool has_bit(const std::vector<uint64_t>& bits, int32_t token) { return bits[token >> 6] >> (token & 63) & 1; }

// Whether `text`, as the tokenizer cuts it, is a complete text of the grammar; masks are asked on the way.
inline bool matches(const Model& model, const Grammar& grammar, std::string_view text) {
  ConstraintState state(grammar);
  std::vector<uint64_t> bits(grammar->mask_words());
  for (const int32_t token : model.tokenizer.encode(text, false)) {
    const bool some = state.fill_mask(bits);
    const bool allowed = some && has_bit(bits, token);
    if (state.accept(token) != allowed) {
      ADD_FAILURE() << "mask and accept disagree about token " << token << " in " << text;
      return false;
    }
    if (!allowed) return false;
  }
  const bool complete = state.fill_mask(bits) && has_bit(bits, model.end);
  EXPECT_EQ(complete, state.can_end()) << text;
  return complete;
}

inline bool schema_allows(std::string_view schema, std::string_view text) {
  return matches(tiny(), tiny().compiler.compile_json_schema_text(schema), text);
}

// The message of the error that compiling throws; empty for none.
template <typename Compile>
std::string error_of(const Compile& compile) {
  try {
    compile();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage) << error.what();
    return error.what();
  }
  return {};
}

inline std::vector<int32_t> allowed_tokens(const std::vector<uint64_t>& bits) {
  std::vector<int32_t> out;
  for (size_t word = 0; word < bits.size(); ++word) {
    for (uint64_t left = bits[word]; left != 0; left &= left - 1) {
      out.push_back(static_cast<int32_t>(word * 64 + static_cast<size_t>(std::countr_zero(left))));
    }
  }
  return out;
}

// Follows random tokens of the masks until the text ends; returns its text. Long texts are led to their end: once over
// `patience` tokens, the choice falls on what ends the text, a string, an object, an array or a recursion, if that is
// allowed.
struct Walk {
  std::string text;
  std::vector<int32_t> tokens;
  bool finished = false;
};

inline Walk random_walk(const Model& model, const Grammar& grammar, std::mt19937& random, size_t patience) {
  constexpr std::string_view kEnders = "\"]},:n01";
  Walk walk;
  ConstraintState state(grammar);
  std::vector<uint64_t> bits(grammar->mask_words());
  while (walk.tokens.size() < patience * 40 + 4000) {
    if (!state.fill_mask(bits)) {
      ADD_FAILURE() << "dead end behind " << walk.text << ": " << state.error();
      return walk;
    }
    const std::vector<int32_t> allowed = allowed_tokens(bits);
    int32_t token = allowed[random() % allowed.size()];
    if (walk.tokens.size() > patience) {
      for (const char ender : kEnders) {
        const int32_t id = *model.tokenizer.token_to_id(std::string_view(&ender, 1));
        if (random() % 8 == 0 || !has_bit(bits, id)) continue;
        token = id;
        break;
      }
      if (has_bit(bits, model.end)) token = model.end;
    }
    if (!state.accept(token)) {
      ADD_FAILURE() << "the mask allows token " << token << " behind " << walk.text << ", accept does not";
      return walk;
    }
    walk.tokens.push_back(token);
    if (token == model.end) {
      walk.finished = state.status() == ConstraintState::Status::kFinished;
      return walk;
    }
    walk.text += *model.tokenizer.token_bytes(token);
  }
  return walk;
}

}  // namespace edgewise::grammar_test
