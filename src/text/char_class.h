// Classes of characters, as the Hugging Face tokenizers library draws their borders.
#pragma once

#include <array>
#include <cstdint>

namespace edgewise::tok {

enum CharFlag : uint8_t {
  kLetter = 1,       // \p{L}
  kNumber = 2,       // \p{N}
  kSpace = 4,        // \s: the property White_Space
  kPunctuation = 8,  // \p{P}, and every ASCII character that is neither alphanumeric, space nor control
  kWord = 16,        // \w: alphabetic, marks, decimal digits, connectors, joiners
  kMark = 32,        // \p{M}
  kNonspacing = 64,  // \p{Mn}
  kOther = 128,      // \p{C} without the unassigned; NUL and U+FFFD too
};

namespace internal {

// The characters up to U+1FFFF are looked up directly, the few classes beyond by search.
constexpr char32_t kDirect = 0x20000;
extern const std::array<uint8_t, kDirect> kCharFlags;
uint8_t find_char_flags(char32_t c);

}  // namespace internal

inline uint8_t char_flags(char32_t c) {
  return c < internal::kDirect ? internal::kCharFlags[c] : internal::find_char_flags(c);
}

inline bool is_space(char32_t c) { return char_flags(c) & kSpace; }
inline bool is_word(char32_t c) { return char_flags(c) & kWord; }
inline bool is_number(char32_t c) { return char_flags(c) & kNumber; }
inline bool is_punctuation(char32_t c) { return char_flags(c) & kPunctuation; }

}  // namespace edgewise::tok
