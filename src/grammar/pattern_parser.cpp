#include "grammar/pattern_parser.h"

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "text/utf8.h"

namespace edgewise::grammar {
namespace {

constexpr int kMaxDepth = 100;
constexpr uint32_t kMaxCount = 1000000;
constexpr size_t kMaxText = 65536;

const CodePoints kDigits{{'0', '9'}};
const CodePoints kWordChars{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const CodePoints kSpaces{{'\t', '\r'},     {' ', ' '},       {0xA0, 0xA0},     {0x1680, 0x1680}, {0x2000, 0x200A},
                         {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
const CodePoints kLineBreaks{{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

[[noreturn]] void refuse(size_t pos, std::string_view what) { usage_error("position {}: {}", pos, what); }

class PatternParser {
 public:
  PatternParser(RegexPool& pool, std::string_view text, CharEncoder encode)
      : pool_(pool), text_(text), encode_(encode) {}

  Regex parse(PatternScope scope) {
    if (text_.size() > kMaxText) usage_error("the expression is longer than {} bytes", kMaxText);
    if (tok::valid_utf8_prefix(text_) != text_.size()) refuse(tok::valid_utf8_prefix(text_), "invalid UTF-8");
    const Regex any = scope == PatternScope::kSearch ? pool_.star(encode_(pool_, CodePoints::all())) : kEmpty;
    std::vector<Regex> options;
    do {
      const bool from_start = take('^');
      Regex body = sequence(0);
      const bool to_end = take('$');
      if (to_end && pos_ < text_.size() && text_[pos_] != '|') refuse(pos_ - 1, "\"$\" is supported at the end only");
      if (!from_start) body = pool_.concat(any, body);
      if (!to_end) body = pool_.concat(body, any);
      options.push_back(body);
    } while (take('|'));
    if (pos_ < text_.size()) refuse(pos_, "\")\" without \"(\"");
    return pool_.either(std::move(options));
  }

  CodePoints bracket_class(size_t& pos) {
    pos_ = pos;
    const CodePoints set = bracket();
    pos = pos_;
    return set;
  }

 private:
  bool at_end() const { return pos_ >= text_.size(); }
  bool take(char c) {
    if (at_end() || text_[pos_] != c) return false;
    ++pos_;
    return true;
  }

  Regex alternatives(int depth) {
    std::vector<Regex> options;
    do options.push_back(sequence(depth));
    while (take('|'));
    return pool_.either(std::move(options));
  }

  Regex sequence(int depth) {
    if (depth > kMaxDepth) refuse(pos_, "groups are nested too deeply");
    std::vector<Regex> parts;
    while (!at_end() && text_[pos_] != '|' && text_[pos_] != ')') {
      if (text_[pos_] == '$') {
        if (depth == 0) break;
        refuse(pos_, "\"$\" inside a group is not supported");
      }
      parts.push_back(repeated(depth));
    }
    Regex result = kEmpty;
    for (auto part = parts.rbegin(); part != parts.rend(); ++part) result = pool_.concat(*part, result);
    return result;
  }

  Regex repeated(int depth) {
    Regex result = atom(depth);
    bool counted = false;
    while (!at_end()) {
      const size_t start = pos_;
      uint32_t min = 0;
      uint32_t max = kUnbounded;
      if (take('+')) {
        min = 1;
      } else if (take('?')) {
        if (counted) {  // the lazy form of the quantifier before it
          counted = false;
          continue;
        }
        max = 1;
      } else if (!take('*') && !braces(min, max)) {
        break;
      }
      if (counted) refuse(start, "a quantifier after a quantifier");
      result = pool_.repeat(result, min, max);
      counted = true;
    }
    return result;
  }

  std::optional<uint32_t> number() {
    const size_t start = pos_;
    uint64_t value = 0;
    while (!at_end() && text_[pos_] >= '0' && text_[pos_] <= '9') {
      value = std::min<uint64_t>(value * 10 + (text_[pos_++] - '0'), uint64_t{kMaxCount} + 1);
    }
    if (pos_ == start) return std::nullopt;
    if (value > kMaxCount) refuse(start, fmt::format("a count above {}", kMaxCount));
    return static_cast<uint32_t>(value);
  }

  bool braces(uint32_t& min, uint32_t& max) {
    const size_t start = pos_;
    if (!take('{')) return false;
    const auto low = number();
    if (!low) refuse(start, "expected a count after \"{\"; write \"\\{\" for the character");
    min = max = *low;
    if (take(',')) max = number().value_or(kUnbounded);
    if (!take('}')) refuse(start, "expected {m}, {m,} or {m,n}");
    if (max < min) refuse(start, "the counts are out of order");
    return true;
  }

  Regex atom(int depth) {
    const size_t start = pos_;
    switch (text_[pos_]) {
      case '(':
        return group(depth);
      case '[':
        return encode_(pool_, bracket());
      case '.':
        ++pos_;
        return encode_(pool_, kLineBreaks.inverted());
      case '\\':
        return encode_(pool_, escape(false));
      case '^':
        refuse(start, "\"^\" is supported at the start only");
      case '*':
      case '+':
      case '?':
      case '{':
        refuse(start, "nothing to repeat");
      default: {
        const char32_t c = tok::next_char(text_, pos_);
        return encode_(pool_, {{c, c}});
      }
    }
  }

  Regex group(int depth) {
    const size_t start = pos_++;
    if (take('?')) {
      if (!take(':')) {
        const bool behind = text_.substr(pos_).starts_with("<=") || text_.substr(pos_).starts_with("<!");
        if (behind) refuse(start, "lookbehind is not supported");
        if (!at_end() && (text_[pos_] == '=' || text_[pos_] == '!')) refuse(start, "lookahead is not supported");
        skip_name(start);
      }
    }
    const Regex inner = alternatives(depth + 1);
    if (!take(')')) refuse(start, "\"(\" without \")\"");
    return inner;
  }

  // A named group is as good as any: "<name>" or "P<name>".
  void skip_name(size_t start) {
    take('P');
    const size_t end = text_.find('>', pos_);
    if (!take('<') || end == std::string_view::npos) refuse(start, "this kind of group is not supported");
    pos_ = end + 1;
  }

  CodePoints bracket() {
    const size_t start = pos_++;
    const bool negative = take('^');
    std::vector<CodePoints::Range> ranges;
    while (!take(']')) {
      if (at_end()) refuse(start, "\"[\" without \"]\"");
      const size_t item = pos_;
      const CodePoints first = class_item();
      const bool range = pos_ + 1 < text_.size() && text_[pos_] == '-' && text_[pos_ + 1] != ']';
      if (!range) {
        ranges.insert(ranges.end(), first.ranges().begin(), first.ranges().end());
        continue;
      }
      ++pos_;
      const CodePoints last = class_item();
      if (!is_single(first) || !is_single(last)) refuse(item, "a range needs a character at either end");
      if (first.ranges()[0].first > last.ranges()[0].first) refuse(item, "the range is out of order");
      ranges.push_back({first.ranges()[0].first, last.ranges()[0].first});
    }
    const CodePoints set(std::move(ranges));
    return negative ? set.inverted() : set;
  }

  static bool is_single(const CodePoints& set) {
    return set.ranges().size() == 1 && set.ranges()[0].first == set.ranges()[0].last;
  }

  CodePoints class_item() {
    if (at_end()) refuse(pos_, "an unfinished class");
    if (text_[pos_] == '\\') return escape(true);
    const char32_t c = tok::next_char(text_, pos_);
    return {{c, c}};
  }

  CodePoints escape(bool in_class) {
    const size_t start = pos_++;
    if (at_end()) refuse(start, "an unfinished escape");
    const char32_t c = tok::next_char(text_, pos_);
    const auto single = [](char32_t value) { return CodePoints{{value, value}}; };
    switch (c) {
      case 'd':
        return kDigits;
      case 'D':
        return kDigits.inverted();
      case 'w':
        return kWordChars;
      case 'W':
        return kWordChars.inverted();
      case 's':
        return kSpaces;
      case 'S':
        return kSpaces.inverted();
      case 'n':
        return single('\n');
      case 'r':
        return single('\r');
      case 't':
        return single('\t');
      case 'f':
        return single('\f');
      case 'v':
        return single('\v');
      case '0':
        return single(0);
      case 'b':
        if (in_class) return single('\b');
        refuse(start, "\\b is not supported");
      case 'x':
        return single(hex(start, 2));
      case 'u':
        return single(unicode(start));
      default:
        break;
    }
    if (c >= '1' && c <= '9') refuse(start, "backreferences are not supported");
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (letter) refuse(start, fmt::format("\\{} is not supported", static_cast<char>(c)));
    return single(c);
  }

  char32_t hex(size_t start, int digits) {
    char32_t value = 0;
    for (int i = 0; i < digits; ++i) {
      const char c = at_end() ? 'x' : text_[pos_++];
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) refuse(start, "expected hexadecimal digits");
      value = value * 16 + static_cast<char32_t>(digit);
    }
    return value;
  }

  char32_t unicode(size_t start) {
    char32_t value = 0;
    if (take('{')) {
      int digits = 0;
      while (!take('}')) {
        if (++digits > 6) refuse(start, "expected \\u{...} with up to 6 digits");
        value = value * 16 + hex(start, 1);
      }
    } else {
      value = hex(start, 4);
      const bool high = value >= 0xD800 && value < 0xDC00;
      if (high && text_.substr(pos_).starts_with("\\u")) {
        pos_ += 2;
        const char32_t low = hex(start, 4);
        if (low < 0xDC00 || low > 0xDFFF) refuse(start, "half of a surrogate pair");
        value = 0x10000 + ((value - 0xD800) << 10) + (low - 0xDC00);
      }
    }
    if (value > kLastCodePoint || (value >= 0xD800 && value <= 0xDFFF)) refuse(start, "not a character");
    return value;
  }

  RegexPool& pool_;
  std::string_view text_;
  CharEncoder encode_;
  size_t pos_ = 0;
};

}  // namespace

Regex parse_pattern(RegexPool& pool, std::string_view text, CharEncoder encode, PatternScope scope) {
  return PatternParser(pool, text, encode).parse(scope);
}

CodePoints parse_bracket_class(RegexPool& pool, std::string_view text, size_t& pos) {
  return PatternParser(pool, text, utf8_class).bracket_class(pos);
}

}  // namespace edgewise::grammar
