#include "text/jinja/lexer.h"

#include <algorithm>
#include <cctype>

#include "base/error.h"
#include "text/jinja/unicode.h"

namespace edgewise::jinja {
namespace {

// \r\n and \r become \n; one newline at the very end goes.
std::string normalized(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      if (i + 1 < source.size() && source[i + 1] == '\n') continue;
      out += '\n';
    } else {
      out += source[i];
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

bool is_ascii_digit(char c) { return c >= '0' && c <= '9'; }

class Lexer {
 public:
  Lexer(std::string_view source, const std::string& name) : source_(normalized(source)), name_(name) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) text();
    add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(const std::string& message) const { bad_file("{}:{}: {}", name_, line_, message); }

  void add(TokenKind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text)}); }

  bool looking_at(std::string_view what) const { return source_.compare(at_, what.size(), what) == 0; }

  // Moves on, counting lines.
  void advance_to(size_t end) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(end), '\n'));
    at_ = end;
    line_starting_ = end > 0 && source_[end - 1] == '\n';
  }

  void skip_spaces() {
    size_t end = at_;
    while (end < source_.size()) {
      size_t after = end;
      if (!is_space(next_code_point(source_, after))) break;
      end = after;
    }
    if (end != at_) advance_to(end);
  }

  // Text up to the next opening delimiter, then what that opens.
  void text() {
    size_t open = at_;
    for (;; ++open) {
      open = source_.find('{', open);
      if (open == std::string::npos || open + 1 >= source_.size()) {
        data(source_.size(), '+');
        return;
      }
      const char next = source_[open + 1];
      if (next == '{' || next == '%' || next == '#') break;
    }
    const char opened = source_[open + 1];
    const char sign = open + 2 < source_.size() ? source_[open + 2] : ' ';
    const bool has_sign = sign == '-' || sign == '+';
    data(open, sign == '-' ? '-' : opened == '{' ? '+' : sign);
    const size_t raw_end = opened == '%' ? end_of_raw_tag(open + 2 + (has_sign ? 1 : 0)) : std::string::npos;
    if (raw_end != std::string::npos) {
      advance_to(raw_end);
      raw();
      return;
    }
    if (opened != '#') add(opened == '{' ? TokenKind::kVariableBegin : TokenKind::kBlockBegin, "");
    advance_to(open + 2 + (has_sign ? 1 : 0));
    if (opened == '#') {
      comment();
    } else {
      tag(opened == '%');
    }
  }

  // Template text up to `end`; `sign` is what the tag behind it says about white space in front of itself.
  void data(size_t end, char sign) {
    std::string_view text = std::string_view(source_).substr(at_, end - at_);
    if (sign == '-') {
      while (!text.empty()) {
        size_t last = text.size() - 1;
        while (last > 0 && (static_cast<unsigned char>(text[last]) & 0xC0) == 0x80) --last;
        size_t at = last;
        if (!is_space(next_code_point(text, at))) break;
        text = text.substr(0, last);
      }
    } else if (sign != '+') {
      const size_t newline = text.rfind('\n');
      const size_t start = newline == std::string_view::npos ? 0 : newline + 1;
      if (start > 0 || line_starting_) {
        size_t at = start;
        bool blank = true;
        while (at < text.size() && blank) blank = is_space(next_code_point(text, at));
        if (blank) text = text.substr(0, start);
      }
    }
    if (!text.empty()) add(TokenKind::kData, std::string(text));
    if (end != at_) advance_to(end);
  }

  // The closing delimiter at `at`, with its sign and what it swallows; npos when it isn't there.
  size_t end_of_closing(size_t at, std::string_view close, bool trims) const {
    const bool minus = at < source_.size() && source_[at] == '-';
    const bool plus = at < source_.size() && source_[at] == '+' && trims;
    const size_t mark = at + (minus || plus ? 1 : 0);
    if (source_.compare(mark, close.size(), close) != 0 || mark >= source_.size()) return std::string::npos;
    size_t end = mark + close.size();
    if (minus) {
      while (end < source_.size()) {
        size_t after = end;
        if (!is_space(next_code_point(source_, after))) break;
        end = after;
      }
    } else if (trims && !plus && end < source_.size() && source_[end] == '\n') {
      ++end;
    }
    return end;
  }

  size_t skip_word(size_t at, std::string_view word) const {
    const auto skip = [&] {
      while (at < source_.size()) {
        size_t after = at;
        if (!is_space(next_code_point(source_, after))) break;
        at = after;
      }
    };
    skip();
    if (source_.compare(at, word.size(), word) != 0) return std::string::npos;
    at += word.size();
    skip();
    return at;
  }

  // {% raw %}: unlike other tags it does not swallow the newline behind it.
  size_t end_of_raw_tag(size_t at) const {
    const size_t close = skip_word(at, "raw");
    if (close == std::string::npos) return close;
    if (source_.compare(close, 2, "%}") == 0) return close + 2;
    return source_.compare(close, 3, "-%}") == 0 ? end_of_closing(close, "%}", true) : std::string::npos;
  }

  void raw() {
    for (size_t open = at_;; ++open) {
      open = source_.find("{%", open);
      if (open == std::string::npos) fail("Missing end of raw directive");
      const char sign = open + 2 < source_.size() ? source_[open + 2] : ' ';
      const size_t close = skip_word(open + 2 + (sign == '-' || sign == '+' ? 1 : 0), "endraw");
      const size_t end = close == std::string::npos ? close : end_of_closing(close, "%}", true);
      if (end == std::string::npos) continue;
      data(open, sign);
      advance_to(end);
      return;
    }
  }

  void comment() {
    for (size_t close = at_; close < source_.size(); ++close) {
      const size_t end = end_of_closing(close, "#}", true);
      if (end == std::string::npos) continue;
      advance_to(end);
      return;
    }
    fail("Missing end of comment tag");
  }

  void tag(bool block) {
    const std::string_view close = block ? "%}" : "}}";
    std::string open_brackets;
    while (true) {
      if (open_brackets.empty()) {
        const size_t end = end_of_closing(at_, close, block);
        if (end != std::string::npos) {
          add(block ? TokenKind::kBlockEnd : TokenKind::kVariableEnd, "");
          advance_to(end);
          return;
        }
      }
      if (at_ >= source_.size()) return;  // the parser finds the end of the template there
      size_t after = at_;
      const char32_t c = next_code_point(source_, after);
      if (is_space(c)) {
        skip_spaces();
      } else if (is_ascii_digit(source_[at_])) {
        number();
      } else if (is_word(c) || is_identifier_part(c)) {
        word();
      } else if (c == U'\'' || c == U'"') {
        string(source_[at_]);
      } else {
        operation(open_brackets);
      }
    }
  }

  // Digits with single underscores between, from `at`; gives the end, `at` itself when there is none.
  size_t digits(size_t at, const char* set) const {
    size_t end = at;
    for (size_t i = at; i < source_.size(); ++i) {
      const char c = static_cast<char>(std::tolower(static_cast<unsigned char>(source_[i])));
      if (std::string_view(set).find(c) != std::string_view::npos) {
        end = i + 1;
      } else if (c != '_' || end != i || i == at) {
        break;
      }
    }
    return end;
  }

  void number() {
    static constexpr const char* kDecimal = "0123456789";
    const size_t start = at_;
    const size_t whole = digits(start, kDecimal);
    size_t end = whole;
    if (start == 0 || source_[start - 1] != '.') {
      if (end < source_.size() && source_[end] == '.' && digits(end + 1, kDecimal) > end + 1) {
        end = digits(end + 1, kDecimal);
      }
      if (end < source_.size() && (source_[end] | 0x20) == 'e') {
        size_t exponent = end + 1;
        if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) ++exponent;
        if (digits(exponent, kDecimal) > exponent) end = digits(exponent, kDecimal);
      }
    }
    if (end > whole) {
      add_number(TokenKind::kFloat, start, end);
      return;
    }
    end = whole;
    if (source_[start] == '0') {
      const char letter = start + 1 < source_.size() ? static_cast<char>(source_[start + 1] | 0x20) : ' ';
      const char* set = letter == 'x'   ? "0123456789abcdef"
                        : letter == 'o' ? "01234567"
                        : letter == 'b' ? "01"
                                        : nullptr;
      size_t first = start + 2;
      if (first < source_.size() && source_[first] == '_') ++first;
      end = set != nullptr && digits(first, set) > first ? digits(first, set) : digits(start, "0");
    }
    add_number(TokenKind::kInteger, start, end);
  }

  void add_number(TokenKind kind, size_t start, size_t end) {
    std::string text = source_.substr(start, end - start);
    std::erase(text, '_');
    add(kind, std::move(text));
    advance_to(end);
  }

  void word() {
    size_t end = at_;
    bool valid = true;
    while (end < source_.size()) {
      size_t after = end;
      const char32_t c = next_code_point(source_, after);
      if (!is_word(c) && !is_identifier_part(c)) break;
      valid = valid && (end == at_ ? is_identifier_start(c) : is_identifier_part(c));
      end = after;
    }
    if (!valid) fail("Invalid character in identifier");
    add(TokenKind::kName, source_.substr(at_, end - at_));
    advance_to(end);
  }

  void string(char quote) {
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) fail(fmt::format("a string that opens with {} is never closed", quote));
    add(TokenKind::kString, unescape(std::string_view(source_).substr(at_ + 1, end - at_ - 1), name_, line_));
    advance_to(end + 1);
  }

  void operation(std::string& open_brackets) {
    static constexpr std::string_view kOperators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                      "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                      ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    for (const std::string_view op : kOperators) {
      if (!looking_at(op)) continue;
      const char c = op[0];
      if (c == '(' || c == '[' || c == '{') {
        open_brackets += c == '(' ? ')' : c == '[' ? ']' : '}';
      } else if (c == ')' || c == ']' || c == '}') {
        if (open_brackets.empty()) fail(fmt::format("unexpected '{}'", c));
        if (open_brackets.back() != c) fail(fmt::format("unexpected '{}', expected '{}'", c, open_brackets.back()));
        open_brackets.pop_back();
      }
      add(TokenKind::kOperator, std::string(op));
      advance_to(at_ + op.size());
      return;
    }
    size_t after = at_;
    next_code_point(source_, after);
    fail(fmt::format("unexpected character '{}'", source_.substr(at_, after - at_)));
  }

  const std::string source_;
  const std::string& name_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
};

}  // namespace

std::string describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::kData:
      return "template text";
    case TokenKind::kVariableBegin:
      return "'{{'";
    case TokenKind::kVariableEnd:
      return "'}}'";
    case TokenKind::kBlockBegin:
      return "'{%'";
    case TokenKind::kBlockEnd:
      return "'%}'";
    case TokenKind::kString:
      return "a string";
    case TokenKind::kEnd:
      return "the end of the template";
    default:
      return "'" + token.text + "'";
  }
}

std::vector<Token> tokenize(std::string_view source, const std::string& name) {
  if (!is_valid_utf8(source)) bad_file("{}: not valid UTF-8", name);
  return Lexer(source, name).run();
}

std::string unescape(std::string_view text, const std::string& name, int line) {
  std::string out;
  const auto hex = [&](size_t at, size_t count) -> char32_t {
    uint32_t value = 0;
    for (size_t i = at; i < at + count; ++i) {
      const char c = i < text.size() ? text[i] : ' ';
      if (std::isxdigit(static_cast<unsigned char>(c)) == 0)
        bad_file("{}:{}: a truncated \\ escape in a string", name, line);
      value = value * 16 + static_cast<uint32_t>(is_ascii_digit(c) ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    if (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
      bad_file("{}:{}: \\ escape of the code point {:#x}, which can't stand in UTF-8", name, line, value);
    }
    return static_cast<char32_t>(value);
  };
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 1 >= text.size()) {
      out += text[i];
      continue;
    }
    static constexpr std::string_view kFrom = "ntrabfv\\'\"";
    static constexpr std::string_view kTo = "\n\t\r\a\b\f\v\\'\"";
    const char c = text[++i];
    if (const size_t known = kFrom.find(c); known != std::string_view::npos) {
      out += kTo[known];
    } else if (c == '\n') {
      continue;
    } else if (c == 'x' || c == 'u' || c == 'U') {
      const size_t count = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      append_code_point(out, hex(i + 1, count));
      i += count;
    } else if (c >= '0' && c <= '7') {
      char32_t value = 0;
      size_t end = i;
      while (end < text.size() && end < i + 3 && text[end] >= '0' && text[end] <= '7') {
        value = value * 8 + static_cast<char32_t>(text[end++] - '0');
      }
      append_code_point(out, value);
      i = end - 1;
    } else if (c == 'N') {
      bad_file("{}:{}: named characters (\\N) in strings are not supported; use \\u", name, line);
    } else {
      out += '\\';
      out += c;
    }
  }
  return out;
}

}  // namespace edgewise::jinja
