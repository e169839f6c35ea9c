// Added tokens: strings that are found in the text before anything else happens to it.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "text/byte_trie.h"
#include "text/model.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"

namespace edgewise::tok {

struct AddedToken {
  int32_t id;
  std::string content;
  std::string text;  // what to find and to decode to: the content, normalized when the token asks for it
  bool single_word;
  bool lstrip;
  bool rstrip;
  bool normalized;
  bool special;
};

class AddedTokens {
 public:
  AddedTokens() = default;
  // Reads the array "added_tokens" of the whole file's `view`. Tokens that the model knows get the model's
  // id, others the next free one, whatever the file says, as Hugging Face tokenizers does.
  AddedTokens(const JsonView& view, const TokenModel& model, const Normalizer* normalizer);

  // Cuts every text piece at the added tokens in it: those found in raw text, or those found in normalized
  // text.
  void split_raw(Pieces& pieces) const { split(pieces, raw_); }
  void split_normalized(Pieces& pieces) const { split(pieces, normalized_); }
  bool has_raw() const { return !raw_.empty(); }
  bool has_normalized() const { return !normalized_.empty(); }

  const AddedToken* find(int32_t id) const;
  std::optional<int32_t> find(std::string_view content) const;
  // Whether decoding leaves out the token with this text when special tokens are skipped.
  bool is_special_text(const std::string& text) const;
  int32_t max_id() const;

 private:
  void read_token(const JsonView& view, const TokenModel& model, const Normalizer* normalizer, int32_t& next_id);
  void split(Pieces& pieces, const ByteTrie& trie) const;
  void split_piece(Pieces& pieces, const Piece& piece, const ByteTrie& trie) const;

  std::unordered_map<int32_t, AddedToken> tokens_;
  std::unordered_map<std::string, int32_t> ids_;
  std::unordered_set<std::string> special_;
  ByteTrie raw_;
  ByteTrie normalized_;
};

}  // namespace edgewise::tok
