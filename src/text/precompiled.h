// SentencePiece's precompiled character map: a double-array trie from strings to their replacements.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace edgewise::tok {

class CharsMap {
 public:
  // `base64` is the field precompiled_charsmap; `where` names it. Throws Error(kBadFile).
  CharsMap(std::string_view base64, const std::string& where);

  // Rewrites `text` grapheme by grapheme.
  void apply(std::string& text) const;

 private:
  // What the shortest key that `text` begins with is replaced by.
  std::optional<std::string_view> replacement(std::string_view text) const;
  void append_grapheme(std::string& out, std::string_view grapheme) const;

  std::vector<uint32_t> units_;  // of a Darts-clone trie
  std::string replacements_;     // NUL-terminated strings, found by their offset
};

}  // namespace edgewise::tok
