// From a position to the tokens that may come next.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "grammar/lexer_tokens.h"
#include "grammar/parser.h"
#include "grammar/token_trie.h"

namespace edgewise::grammar {

// The inside of strings, known once for a tokenizer.
using SharedStrings = std::vector<std::shared_ptr<const StringTokens>>;

class MaskMaker {
 public:
  MaskMaker(RegexPool& pool, Parser& parser, std::shared_ptr<const TokenTrie> trie, SharedStrings strings);

  // Sets `bits` to the tokens after which the text can still be completed. Throws Error(kUsage) at the parser's limits.
  void fill(Position position, std::span<uint64_t> bits);

 private:
  static constexpr int kWide = 20;                             // a state with as many next bytes is worth remembering
  static constexpr size_t kWorthRemembering = 500;             // nodes walked for a mask
  static constexpr size_t kRememberedBytes = size_t{8} << 20;  // of masks, and as much for lexer states

  void compute(Position position, std::span<uint64_t> bits);
  bool add_string(const Place& place, std::span<uint64_t> bits);
  void add_wide(const Place& place, std::span<uint64_t> bits);
  const LexerTokens& tokens_of(Regex state);
  LexerTokens scan(Regex state);
  // Adds the tokens below node `root` of the tree (kWholeTree: all) that `from` can read.
  void walk(uint32_t root, Position from, std::span<uint64_t> bits);
  size_t remembered_limit() const { return kRememberedBytes / (trie_->mask_words() * 8) + 1; }

  static constexpr uint32_t kWholeTree = ~uint32_t{0};

  RegexPool& pool_;
  Parser& parser_;
  std::shared_ptr<const TokenTrie> trie_;
  SharedStrings strings_;
  std::unordered_map<Regex, LexerTokens> lexer_tokens_;
  std::unordered_map<Position, std::vector<uint64_t>> masks_;
  std::vector<Position> path_;
  std::vector<Place> narrow_;
  size_t walked_ = 0;
};

}  // namespace edgewise::grammar
