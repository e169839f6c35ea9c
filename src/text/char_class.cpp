#include "text/char_class.h"

namespace edgewise::tok {
namespace {

constexpr uint32_t bit(int category) {
  return 1u << category;
}
constexpr uint32_t kLetterMask = bit(UTF8PROC_CATEGORY_LU) | bit(UTF8PROC_CATEGORY_LL) |
                                 bit(UTF8PROC_CATEGORY_LT) | bit(UTF8PROC_CATEGORY_LM) |
                                 bit(UTF8PROC_CATEGORY_LO);
constexpr uint32_t kMarkMask =
    bit(UTF8PROC_CATEGORY_MN) | bit(UTF8PROC_CATEGORY_MC) | bit(UTF8PROC_CATEGORY_ME);
constexpr uint32_t kNumberMask =
    bit(UTF8PROC_CATEGORY_ND) | bit(UTF8PROC_CATEGORY_NL) | bit(UTF8PROC_CATEGORY_NO);
constexpr uint32_t kPunctuationMask = bit(UTF8PROC_CATEGORY_PC) | bit(UTF8PROC_CATEGORY_PD) |
                                      bit(UTF8PROC_CATEGORY_PS) | bit(UTF8PROC_CATEGORY_PE) |
                                      bit(UTF8PROC_CATEGORY_PI) | bit(UTF8PROC_CATEGORY_PF) |
                                      bit(UTF8PROC_CATEGORY_PO);
constexpr uint32_t kWordMask = kLetterMask | kMarkMask | bit(UTF8PROC_CATEGORY_ND) |
                               bit(UTF8PROC_CATEGORY_NL) | bit(UTF8PROC_CATEGORY_PC);
constexpr uint32_t kOtherMask = bit(UTF8PROC_CATEGORY_CC) | bit(UTF8PROC_CATEGORY_CF) |
                                bit(UTF8PROC_CATEGORY_CO) | bit(UTF8PROC_CATEGORY_CS);

uint32_t category_bit(char32_t c) {
  return bit(utf8proc_category(static_cast<utf8proc_int32_t>(c)));
}

bool is_wide_space(char32_t c) {
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

// Joiners, and the circled and squared letters that are alphabetic though their category is "symbol".
bool is_extra_word(char32_t c) {
  return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
         (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
}

}  // namespace

uint8_t char_flags_beyond_ascii(char32_t c) {
  const uint32_t category = category_bit(c);
  uint8_t flags = 0;
  if (category & kLetterMask) flags |= kLetter;
  if (category & kNumberMask) flags |= kNumber;
  if (category & kPunctuationMask) flags |= kPunctuation;
  if ((category & kWordMask) || is_extra_word(c)) flags |= kWord;
  if (is_wide_space(c)) flags |= kSpace;
  return flags;
}

bool is_mark(char32_t c) {
  return category_bit(c) & kMarkMask;
}
bool is_nonspacing_mark(char32_t c) {
  return category_bit(c) & bit(UTF8PROC_CATEGORY_MN);
}
bool is_other(char32_t c) {
  return category_bit(c) & kOtherMask;
}

}  // namespace edgewise::tok
