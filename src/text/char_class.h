// Classes of characters, as the Hugging Face tokenizers library draws their borders.
#pragma once

#include <utf8proc.h>

#include <array>
#include <cstdint>

namespace edgewise::tok {

enum CharFlag : uint8_t {
  kLetter = 1,       // \p{L}
  kNumber = 2,       // \p{N}
  kSpace = 4,        // \s: the property White_Space
  kPunctuation = 8,  // \p{P}, and every ASCII character that is neither alphanumeric, space nor control
  kWord = 16,        // \w: alphabetic, marks, decimal digits, connectors, joiners
};

uint8_t char_flags_beyond_ascii(char32_t c);

namespace internal {
constexpr std::array<uint8_t, 128> ascii_flags() {
  std::array<uint8_t, 128> flags{};
  for (int c = 0; c < 128; ++c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const bool digit = c >= '0' && c <= '9';
    if (letter) flags[c] = kLetter | kWord;
    if (digit) flags[c] = kNumber | kWord;
    if (c == ' ' || (c >= 9 && c <= 13)) flags[c] = kSpace;
    if (c > ' ' && c < 127 && !letter && !digit) flags[c] = kPunctuation;
    if (c == '_') flags[c] |= kWord;
  }
  return flags;
}
inline constexpr std::array<uint8_t, 128> kAsciiFlags = ascii_flags();
}  // namespace internal

inline uint8_t char_flags(char32_t c) {
  return c < 128 ? internal::kAsciiFlags[c] : char_flags_beyond_ascii(c);
}

inline bool is_space(char32_t c) {
  return char_flags(c) & kSpace;
}
inline bool is_word(char32_t c) {
  return char_flags(c) & kWord;
}
inline bool is_number(char32_t c) {
  return char_flags(c) & kNumber;
}
inline bool is_punctuation(char32_t c) {
  return char_flags(c) & kPunctuation;
}

// General categories Mn, Mc and Me; Mn alone; Cc, Cf, Co and Cs.
bool is_mark(char32_t c);
bool is_nonspacing_mark(char32_t c);
bool is_other(char32_t c);

}  // namespace edgewise::tok
