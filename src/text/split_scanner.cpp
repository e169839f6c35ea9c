#include "text/split_scanner.h"

#include "text/char_class.h"
#include "text/utf8.h"

namespace edgewise::tok {

const std::string_view kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

namespace {

constexpr uint8_t kClassMask = kLetter | kNumber | kSpace;

// One of kLetter, kNumber, kSpace, or 0 for everything else.
uint8_t read_class(std::string_view text, size_t& pos) { return char_flags(next_char(text, pos)) & kClassMask; }

uint8_t class_at(std::string_view text, size_t pos) { return read_class(text, pos); }

// End of the run of characters of one class that starts at `pos`.
size_t run_end(std::string_view text, size_t pos, uint8_t wanted) {
  while (pos < text.size()) {
    size_t next = pos;
    if (read_class(text, next) != wanted) break;
    pos = next;
  }
  return pos;
}

bool is_newline(char c) { return c == '\r' || c == '\n'; }

// Bytes in the English contraction at `pos`, where an apostrophe stands; 0 when there is none.
size_t contraction_length(std::string_view text, size_t pos, bool ignore_case) {
  const auto lower = [&](size_t i) -> char {
    if (i >= text.size()) return '\0';
    const char c = text[i];
    return ignore_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  };
  const char first = lower(pos + 1);
  const char second = lower(pos + 2);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  if ((first == 'r' || first == 'v') && second == 'e') return 3;
  if (first == 'l' && second == 'l') return 3;
  // The long s (U+017F) is an 's' to a comparison without case.
  if (ignore_case && first == '\xC5' && second == '\xBF') return 3;
  return 0;
}

// \s+(?!\S)|\s+ on the white space [pos, end): all but the last character when text follows.
size_t space_match(std::string_view text, size_t pos, size_t end) {
  if (end == text.size()) return end;
  const size_t last = previous_char_start(text, end);
  return last > pos ? last : end;
}

size_t scan_gpt2(std::string_view text, size_t pos) {
  if (text[pos] == '\'') {
    const size_t length = contraction_length(text, pos, false);
    if (length > 0) return pos + length;
  }
  size_t next = pos;
  uint8_t kind = read_class(text, next);
  if (kind == kSpace) {
    if (text[pos] != ' ' || next == text.size()) return space_match(text, pos, run_end(text, next, kSpace));
    kind = read_class(text, next);
    if (kind == kSpace) return space_match(text, pos, run_end(text, next, kSpace));
  }
  return run_end(text, next, kind);
}

// The white space that starts at `pos`: \s*[\r\n]+|\s+(?!\S)|\s+
size_t scan_space_and_newlines(std::string_view text, size_t pos) {
  const size_t end = run_end(text, pos, kSpace);
  for (size_t i = end; i > pos; --i) {
    if (is_newline(text[i - 1])) return i;
  }
  return space_match(text, pos, end);
}

template <int kMaxDigits>
size_t scan_cl100k(std::string_view text, size_t pos) {
  if (text[pos] == '\'') {
    const size_t length = contraction_length(text, pos, true);
    if (length > 0) return pos + length;
  }
  size_t next = pos;
  const uint8_t kind = read_class(text, next);
  if (kind == kLetter) return run_end(text, next, kLetter);
  if (kind == kNumber) {
    for (int digits = 1; digits < kMaxDigits && next < text.size(); ++digits) {
      size_t after = next;
      if (read_class(text, after) != kNumber) break;
      next = after;
    }
    return next;
  }
  const uint8_t following = next < text.size() ? class_at(text, next) : static_cast<uint8_t>(kSpace);
  if (following == kLetter && !is_newline(text[pos])) return run_end(text, next, kLetter);
  if (kind == kSpace && (text[pos] != ' ' || following != 0)) return scan_space_and_newlines(text, pos);
  size_t end = run_end(text, next, 0);
  while (end < text.size() && is_newline(text[end])) ++end;
  return end;
}

}  // namespace

SplitScanner find_split_scanner(std::string_view pattern) {
  if (pattern == kGpt2Pattern) return scan_gpt2;
  if (pattern == kLlama3Pattern) return scan_cl100k<3>;
  if (pattern == kQwen2Pattern) return scan_cl100k<1>;
  return nullptr;
}

}  // namespace edgewise::tok
