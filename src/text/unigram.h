// SentencePiece's unigram model: the most probable way to write a word as tokens.
#pragma once

#include <array>
#include <optional>

#include "text/byte_trie.h"
#include "text/model.h"

namespace edgewise::tok {

class UnigramModel final : public TokenModel {
 public:
  explicit UnigramModel(const JsonView& view);

  void encode(std::string_view word, std::vector<int32_t>& ids, ModelScratch& scratch) const override;

 private:
  void compute(std::string_view word, std::vector<int32_t>& ids, ModelScratch& scratch) const;
  void find_best_path(std::string_view word, std::vector<ModelScratch::Step>& steps) const;
  void append_unknown(std::string_view text, std::vector<int32_t>& ids) const;
  int32_t unknown_id() const;

  ByteTrie trie_;
  std::vector<double> scores_;
  std::string where_;
  int32_t unknown_ = -1;
  double unknown_score_ = 0;
  bool byte_fallback_ = false;
  std::array<int32_t, 256> fallback_ids_;
};

}  // namespace edgewise::tok
