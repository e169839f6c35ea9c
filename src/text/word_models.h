// The two simple models: WordPiece takes the longest piece at each place, WordLevel whole words.
#pragma once

#include "text/byte_trie.h"
#include "text/model.h"

namespace edgewise::tok {

class WordPieceModel final : public TokenModel {
 public:
  explicit WordPieceModel(const JsonView& view);
  void encode(std::string_view word, std::vector<int32_t>& ids, ModelScratch& scratch) const override;

 private:
  // Appends the ids of the pieces; false, and nothing appended, when the word has no such pieces.
  bool append_pieces(std::string_view word, std::vector<int32_t>& ids) const;

  ByteTrie trie_;
  uint32_t continuation_;  // the node of the prefix that marks all but a word's first piece
  std::string where_;
  std::string unknown_;
  uint64_t max_chars_;  // longer words are unknown
};

class WordLevelModel final : public TokenModel {
 public:
  explicit WordLevelModel(const JsonView& view);
  void encode(std::string_view word, std::vector<int32_t>& ids, ModelScratch& scratch) const override;

 private:
  std::string where_;
  std::string unknown_;
};

}  // namespace edgewise::tok
