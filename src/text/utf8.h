// UTF-8: decoding, encoding, and the replacement of ill-formed bytes by U+FFFD.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace edgewise::tok {

constexpr char32_t kReplacementCharacter = 0xFFFD;

// Bytes in the character that starts with `lead`; 1 for a byte that starts none.
inline size_t utf8_length(unsigned char lead) {
  if (lead < 0xC0) return 1;
  return lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

// Reads the character at `pos` of well-formed UTF-8 and moves `pos` behind it.
inline char32_t next_char(std::string_view text, size_t& pos) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(pos);
  if (lead < 0x80) return text[pos++];
  if (lead < 0xE0) {
    pos += 2;
    return (lead & 0x1Fu) << 6 | (byte(pos - 1) & 0x3Fu);
  }
  if (lead < 0xF0) {
    pos += 3;
    return (lead & 0x0Fu) << 12 | (byte(pos - 2) & 0x3Fu) << 6 | (byte(pos - 1) & 0x3Fu);
  }
  pos += 4;
  return (lead & 0x07u) << 18 | (byte(pos - 3) & 0x3Fu) << 12 | (byte(pos - 2) & 0x3Fu) << 6 | (byte(pos - 1) & 0x3Fu);
}

// Start of the character that ends right before `pos` > 0.
inline size_t previous_char_start(std::string_view text, size_t pos) {
  do --pos;
  while (pos > 0 && (static_cast<unsigned char>(text[pos]) & 0xC0) == 0x80);
  return pos;
}

void append_utf8(std::string& out, char32_t c);
size_t count_chars(std::string_view text);

// Length of the well-formed UTF-8 that `bytes` begins with.
size_t valid_utf8_prefix(std::string_view bytes);

// Appends `bytes` to `out`, each maximal ill-formed part as one U+FFFD (the Unicode recommendation). Without
// `at_end`, a character cut off at the end is left alone. Returns how many bytes were consumed.
size_t append_lossy(std::string& out, std::string_view bytes, bool at_end);

}  // namespace edgewise::tok
