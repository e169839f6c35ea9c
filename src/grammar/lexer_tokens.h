// Which tokens fit a lexer state, whatever the grammar around it: those that end within the terminal, and where in the
// token tree the terminal may be complete so that the rest of a token is the parser's business. Most of a vocabulary is
// decided here, once for a state.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "grammar/json_text.h"
#include "grammar/regex_pool.h"
#include "grammar/token_trie.h"

namespace edgewise::grammar {

inline void set_bit(std::span<uint64_t> bits, int32_t token) { bits[token >> 6] |= uint64_t{1} << (token & 63); }
inline void clear_bit(std::span<uint64_t> bits, int32_t token) { bits[token >> 6] &= ~(uint64_t{1} << (token & 63)); }

struct LexerTokens {
  std::vector<uint64_t> inside;
  std::vector<uint32_t> exits;  // nodes of the tree that have descendants, in order
};

// Walks the whole tree with `state`.
LexerTokens scan_tokens(RegexPool& pool, const TokenTrie& trie, Regex state);
// The same for a state that matches a part of what `base` matches and mostly agrees with it.
LexerTokens scan_tokens(RegexPool& pool, const TokenTrie& trie, Regex state, Regex base,
                        const LexerTokens& base_tokens);

// The same for a state for which only tokens of more than TokenTrie::kLong bytes are not as for `base`.
LexerTokens scan_long_tokens(RegexPool& pool, const TokenTrie& trie, Regex state, const LexerTokens& base_tokens);

// The tokens of a string's inside by how many characters they have, for strings of bounded length: `unit` repeated,
// then the quote. One walk serves all bounds.
class StringTokens {
 public:
  StringTokens(RegexPool& pool, const TokenTrie& trie, Regex unit, Regex quote);

  // Whether `state` is such a string with `min` to `max` characters to come.
  bool covers(const RegexPool& pool, Regex state, uint32_t& min, uint32_t& max) const;

  // Adds the tokens that end within the string or with its quote.
  void add_inside(uint32_t min, uint32_t max, std::span<uint64_t> bits) const;
  // Nodes of the tree behind the quote.
  template <typename Visit>
  void for_each_exit(uint32_t min, uint32_t max, const Visit& visit) const {
    for (const Counted& exit : exits_) {
      if (min <= exit.units && exit.units <= max) visit(static_cast<uint32_t>(exit.id));
    }
  }

  Regex unbounded() const { return unbounded_; }  // the state without bounds
  const LexerTokens& unbounded_tokens() const { return unbounded_tokens_; }

 private:
  static constexpr uint32_t kMasks = 16;
  struct Counted {
    int32_t id;
    uint32_t units;  // characters begun before the quote or the token's end
  };

  void scan(RegexPool& pool, const TokenTrie& trie);

  Regex unit_;
  Regex quote_;
  Regex unbounded_;
  LexerTokens unbounded_tokens_;
  std::vector<uint64_t> open_;                // tokens without the quote
  std::vector<std::vector<uint64_t>> short_;  // of those, with up to n characters
  std::vector<Counted> long_;                 // of those, with kMasks characters or more
  std::vector<Counted> closers_;              // tokens that end with the quote
  std::vector<Counted> exits_;
};

}  // namespace edgewise::grammar
