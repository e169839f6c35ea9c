// A compiled grammar at work: the parser and the masks behind one lock.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "grammar/graph.h"
#include "grammar/masks.h"
#include "grammar/parser.h"
#include "grammar/regex_pool.h"
#include "grammar/token_trie.h"

namespace edgewise::grammar {

// What all grammars of a compiler start from.
struct Vocabulary {
  std::shared_ptr<const TokenTrie> trie;
  SharedStrings strings;
  std::vector<int32_t> end_tokens;
};

// Positions stay valid as long as the engine. Functions throw Error(kUsage) at the parser's limits.
class Engine {
 public:
  static constexpr Position kEnded = ~uint32_t{0};  // behind an end token

  // Throws Error(kUsage) when no text at all is in the grammar's language.
  Engine(const Vocabulary& vocabulary, std::unique_ptr<RegexPool> pool, Graph graph);

  Position start() const { return start_; }
  const TokenTrie& trie() const { return *vocabulary_.trie; }

  // False when no token is allowed.
  bool fill_mask(Position position, std::span<uint64_t> bits);
  // kNowhere when the token is not allowed.
  Position accept(Position position, int32_t token);
  bool is_complete(Position position);
  bool is_final(Position position);  // complete, and nothing can follow
  std::string forced_bytes(Position position, size_t limit);

 private:
  void make_room();

  std::mutex mutex_;
  Vocabulary vocabulary_;
  std::unique_ptr<RegexPool> pool_;
  Graph graph_;
  Parser parser_;
  MaskMaker masks_;
  Position start_ = Parser::kNowhere;
};

}  // namespace edgewise::grammar
