// Byte pair encoding.
#pragma once

#include <array>
#include <optional>

#include "text/flat_map.h"
#include "text/model.h"

namespace edgewise::tok {

class BpeModel final : public TokenModel {
 public:
  explicit BpeModel(const JsonView& view);

  void encode(std::string_view word, std::vector<int32_t>& ids, ModelScratch& scratch) const override;
  bool take_bytes() override;

 private:
  struct Merge {
    uint32_t rank;
    int32_t new_id;
  };

  void read_options(const JsonView& view);
  void read_merges(const JsonView& view);
  void add_merge(std::string_view left, std::string_view right, uint32_t rank, const std::string& where);
  void index_characters();

  const uint64_t* find_merge(int32_t left, int32_t right) const {
    return merges_.find(uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right));
  }
  int32_t char_id(char32_t c) const;
  bool joined(char32_t left, char32_t right) const;
  std::optional<int32_t> whole_word(std::string_view word) const;

  void encode_split(std::string_view word, std::vector<int32_t>& ids, ModelScratch& scratch) const;
  void encode_part(std::string_view word, std::vector<int32_t>& ids, ModelScratch& scratch) const;
  void read_symbols(std::string_view word, std::vector<int32_t>& symbols, std::string& text) const;
  void read_byte_symbols(std::string_view word, std::vector<int32_t>& symbols) const;
  bool append_fallback(std::string_view character, std::vector<int32_t>& symbols) const;
  int32_t unknown_id() const;
  void merge_short(std::vector<int32_t>& symbols, std::vector<uint64_t>& merges) const;
  void merge_long(std::vector<int32_t>& symbols, ModelScratch& scratch) const;

  FlatMap merges_;  // (left id, right id) -> (rank, new id)
  std::string where_;
  std::optional<std::string> unknown_;
  std::string prefix_;  // of every symbol but a word's first
  std::string suffix_;  // of a word's last symbol
  bool fuse_unknown_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;

  std::array<int32_t, 128> ascii_ids_;
  FlatMap char_ids_;                       // for characters beyond ASCII
  std::array<int32_t, 256> fallback_ids_;  // of <0x00> to <0xFF>; -1 when missing

  // A merge across a given pair of characters exists. Where it does not, a word falls apart into parts that
  // merge independently.
  bool splittable_ = false;
  std::vector<bool> ascii_joins_;
  FlatMap joins_;

  bool bytes_ = false;                 // words are bytes, not GPT-2's symbols for them
  std::array<int32_t, 256> byte_ids_;  // of those symbols
  Vocab byte_words_;                   // whole tokens as bytes, for ignore_merges
};

}  // namespace edgewise::tok
