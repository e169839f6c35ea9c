// Code points as Python's str sees them: classes, case mappings, UTF-8. All functions expect valid UTF-8.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace edgewise::jinja {

bool is_valid_utf8(std::string_view text);
size_t count_code_points(std::string_view text);
// Reads the code point at `position` and moves past it.
char32_t next_code_point(std::string_view text, size_t& position);
void append_code_point(std::string& out, char32_t code_point);
std::u32string decode(std::string_view text);
std::string encode(std::u32string_view code_points);
// Byte offset of the code point with that index; `text.size()` past the end.
size_t byte_offset(std::string_view text, size_t index);

bool is_space(char32_t c);
bool is_alpha(char32_t c);
bool is_decimal(char32_t c);
bool is_digit(char32_t c);
bool is_numeric(char32_t c);
bool is_lower(char32_t c);
bool is_upper(char32_t c);
bool is_title(char32_t c);
bool is_printable(char32_t c);
bool is_identifier_start(char32_t c);
bool is_identifier_part(char32_t c);
inline bool is_alnum(char32_t c) { return is_alpha(c) || is_decimal(c) || is_digit(c) || is_numeric(c); }
inline bool is_word(char32_t c) { return is_alnum(c) || c == U'_'; }
inline bool is_cased(char32_t c) { return is_lower(c) || is_upper(c) || is_title(c); }
// The value 0-9 of a decimal digit of any script, or -1.
int decimal_value(char32_t c);

std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string to_title(std::string_view text);
std::string to_capitalized(std::string_view text);
std::string to_swapped_case(std::string_view text);
std::string to_folded(std::string_view text);

}  // namespace edgewise::jinja
