#include "text/jinja/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>

#include "text/jinja/unicode_tables.h"

namespace edgewise::jinja {
namespace {

template <size_t N>
bool in_ranges(const CodePointRange (&ranges)[N], char32_t c) {
  const auto* found = std::upper_bound(std::begin(ranges), std::end(ranges), static_cast<uint32_t>(c),
                                       [](uint32_t x, const CodePointRange& range) { return x < range.first; });
  return found != std::begin(ranges) && c <= std::prev(found)->last;
}

utf8proc_category_t category(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }

template <size_t N>
bool append_mapped(const CodePointMapping (&table)[N], char32_t c, std::u32string& out) {
  const auto* found = std::lower_bound(std::begin(table), std::end(table), static_cast<uint32_t>(c),
                                       [](const CodePointMapping& mapping, uint32_t x) { return mapping.from < x; });
  if (found == std::end(table) || found->from != c) return false;
  for (const uint32_t to : found->to) {
    if (to != 0) out.push_back(static_cast<char32_t>(to));
  }
  return true;
}

void append_upper(char32_t c, std::u32string& out) {
  if (append_mapped(kUpperToMany, c, out)) return;
  out.push_back(static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
}

void append_title(char32_t c, std::u32string& out) {
  if (append_mapped(kTitleToMany, c, out)) return;
  out.push_back(static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))));
}

bool is_case_ignorable(char32_t c) {
  switch (category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      return c == U'\'' || c == U'.' || c == U':' || c == 0xB7 || c == 0x2018 || c == 0x2019 || c == 0x2024 ||
             c == 0x2027;
  }
}

// A capital sigma becomes the final form at the end of a word.
bool is_final_sigma(const std::u32string& text, size_t at) {
  size_t before = at;
  while (before > 0 && is_case_ignorable(text[before - 1])) --before;
  if (before == 0 || !is_cased(text[before - 1])) return false;
  size_t after = at + 1;
  while (after < text.size() && is_case_ignorable(text[after])) ++after;
  return after == text.size() || !is_cased(text[after]);
}

void append_lower(const std::u32string& text, size_t at, std::u32string& out) {
  const char32_t c = text[at];
  if (c == 0x130) {
    out += U"i\u0307";
  } else if (c == 0x3A3) {
    out.push_back(is_final_sigma(text, at) ? 0x3C2 : 0x3C3);
  } else {
    out.push_back(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
  }
}

}  // namespace

bool is_valid_utf8(std::string_view text) {
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  size_t at = 0;
  while (at < text.size()) {
    utf8proc_int32_t code_point = 0;
    const auto read = utf8proc_iterate(bytes + at, static_cast<utf8proc_ssize_t>(text.size() - at), &code_point);
    if (read <= 0 || code_point < 0) return false;
    at += static_cast<size_t>(read);
  }
  return true;
}

size_t count_code_points(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

char32_t next_code_point(std::string_view text, size_t& position) {
  const auto lead = static_cast<unsigned char>(text[position++]);
  if (lead < 0x80) return lead;
  const int more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
  char32_t code_point = lead & (0x3Fu >> more);
  for (int i = 0; i < more && position < text.size(); ++i) {
    code_point = code_point << 6 | (static_cast<unsigned char>(text[position++]) & 0x3F);
  }
  return code_point;
}

void append_code_point(std::string& out, char32_t code_point) {
  utf8proc_uint8_t bytes[4];
  const auto size = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), bytes);
  out.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(size));
}

std::u32string decode(std::string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) out.push_back(next_code_point(text, at));
  return out;
}

std::string encode(std::u32string_view code_points) {
  std::string out;
  out.reserve(code_points.size());
  for (const char32_t c : code_points) append_code_point(out, c);
  return out;
}

size_t byte_offset(std::string_view text, size_t index) {
  size_t at = 0;
  while (at < text.size() && index > 0) {
    next_code_point(text, at);
    --index;
  }
  return at;
}

bool is_space(char32_t c) { return in_ranges(kSpaces, c); }
bool is_decimal(char32_t c) { return category(c) == UTF8PROC_CATEGORY_ND; }
bool is_digit(char32_t c) { return is_decimal(c) || in_ranges(kDigitsBeyondNd, c); }
bool is_lower(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LL || in_ranges(kLowercaseBeyondLl, c); }
bool is_upper(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LU || in_ranges(kUppercaseBeyondLu, c); }
bool is_title(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LT; }

bool is_alpha(char32_t c) {
  const auto cat = category(c);
  return cat >= UTF8PROC_CATEGORY_LU && cat <= UTF8PROC_CATEGORY_LO;
}

bool is_numeric(char32_t c) {
  const auto cat = category(c);
  return (cat >= UTF8PROC_CATEGORY_ND && cat <= UTF8PROC_CATEGORY_NO) || in_ranges(kNumericBeyondN, c);
}

bool is_printable(char32_t c) {
  switch (category(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    case UTF8PROC_CATEGORY_ZS:
      return c == U' ';
    default:
      return true;
  }
}

bool is_identifier_start(char32_t c) { return c == U'_' || is_alpha(c) || category(c) == UTF8PROC_CATEGORY_NL; }

bool is_identifier_part(char32_t c) {
  if (is_identifier_start(c)) return true;
  const auto cat = category(c);
  return cat == UTF8PROC_CATEGORY_ND || cat == UTF8PROC_CATEGORY_MN || cat == UTF8PROC_CATEGORY_MC ||
         cat == UTF8PROC_CATEGORY_PC;
}

int decimal_value(char32_t c) {
  if (c >= U'0' && c <= U'9') return static_cast<int>(c - U'0');
  if (!is_decimal(c)) return -1;
  // Decimal digits stand in runs of ten; the mathematical ones follow each other without a gap.
  if (c >= 0x1D7CE && c <= 0x1D7FF) return static_cast<int>((c - 0x1D7CE) % 10);
  int value = 0;
  while (value < 9 && is_decimal(c - static_cast<char32_t>(value) - 1)) ++value;
  return value;
}

std::string to_upper(std::string_view text) {
  std::u32string out;
  for (const char32_t c : decode(text)) append_upper(c, out);
  return encode(out);
}

std::string to_lower(std::string_view text) {
  const std::u32string in = decode(text);
  std::u32string out;
  for (size_t i = 0; i < in.size(); ++i) append_lower(in, i, out);
  return encode(out);
}

std::string to_title(std::string_view text) {
  const std::u32string in = decode(text);
  std::u32string out;
  bool after_cased = false;
  for (size_t i = 0; i < in.size(); ++i) {
    if (after_cased) {
      append_lower(in, i, out);
    } else {
      append_title(in[i], out);
    }
    after_cased = is_cased(in[i]);
  }
  return encode(out);
}

std::string to_capitalized(std::string_view text) {
  const std::u32string in = decode(text);
  std::u32string out;
  for (size_t i = 0; i < in.size(); ++i) {
    if (i == 0) {
      append_title(in[i], out);
    } else {
      append_lower(in, i, out);
    }
  }
  return encode(out);
}

std::string to_swapped_case(std::string_view text) {
  const std::u32string in = decode(text);
  std::u32string out;
  for (size_t i = 0; i < in.size(); ++i) {
    if (is_upper(in[i])) {
      append_lower(in, i, out);
    } else if (is_lower(in[i])) {
      append_upper(in[i], out);
    } else {
      out.push_back(in[i]);
    }
  }
  return encode(out);
}

std::string to_folded(std::string_view text) {
  std::u32string out;
  for (const char32_t c : decode(text)) {
    if (append_mapped(kFoldToMany, c, out)) continue;
    utf8proc_int32_t folded = 0;
    int boundary = 0;
    const auto count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), &folded, 1, UTF8PROC_CASEFOLD, &boundary);
    out.push_back(count == 1 ? static_cast<char32_t>(folded) : c);
  }
  return encode(out);
}

}  // namespace edgewise::jinja
