#include "grammar/ebnf.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>

#include "base/error.h"
#include "grammar/code_points.h"
#include "grammar/ebnf_rules.h"
#include "grammar/pattern_parser.h"
#include "text/utf8.h"

namespace edgewise::grammar {
namespace {

constexpr size_t kMaxText = 1 << 18;
constexpr size_t kMaxRules = 5000;
constexpr int kMaxDepth = 100;
constexpr uint32_t kMaxCount = 100000;

using Kind = Expression::Kind;

bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_name_char(char c) { return is_name_start(c) || (c >= '0' && c <= '9') || c == '-'; }

class EbnfParser {
 public:
  EbnfParser(RegexPool& pool, std::string_view text) : pool_(pool), text_(text) {}

  Graph parse() {
    if (text_.size() > kMaxText) usage_error("the grammar is longer than {} bytes", kMaxText);
    if (const size_t valid = tok::valid_utf8_prefix(text_); valid != text_.size()) refuse(valid, "invalid UTF-8");
    for (skip_space(); pos_ < text_.size(); skip_space()) read_rule();
    for (size_t id = 0; id < rules_.size(); ++id) {
      if (!rules_[id]) refuse(first_use_[id], fmt::format("there is no rule \"{}\"", names_[id]));
    }
    const auto start = ids_.contains("root") ? ids_.find("root") : ids_.find("start");
    if (start == ids_.end()) refuse(0, "there is no rule \"root\" or \"start\" to begin with");
    std::vector<Expression> rules;
    for (auto& rule : rules_) rules.push_back(std::move(*rule));
    return EbnfRules(pool_, std::move(rules), start->second).graph();
  }

 private:
  [[noreturn]] void refuse(size_t pos, std::string_view what) const {
    const std::string_view before = text_.substr(0, pos);
    const size_t line_start = before.rfind('\n') == std::string_view::npos ? 0 : before.rfind('\n') + 1;
    usage_error("{}:{}: {}", std::ranges::count(before, '\n') + 1, pos - line_start + 1, what);
  }

  bool at_end() const { return pos_ >= text_.size(); }
  bool take(std::string_view what) {
    if (!text_.substr(pos_).starts_with(what)) return false;
    pos_ += what.size();
    return true;
  }

  void skip_space() {
    while (!at_end()) {
      const char c = text_[pos_];
      if (c == '#' || text_.substr(pos_).starts_with("//")) {
        pos_ = std::min(text_.find('\n', pos_), text_.size());
      } else if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
        ++pos_;
      } else {
        return;
      }
    }
  }

  std::string_view name() {
    const size_t start = pos_;
    if (at_end() || !is_name_start(text_[pos_])) return {};
    while (!at_end() && is_name_char(text_[pos_])) ++pos_;
    return text_.substr(start, pos_ - start);
  }

  bool take_definition() {
    skip_space();
    return take("::=") || take(":") || take("=");
  }

  // A name that begins the next rule ends the one before.
  bool at_rule() {
    const size_t start = pos_;
    const bool found = !name().empty() && take_definition();
    pos_ = start;
    return found;
  }

  uint32_t rule_id(std::string_view rule_name, size_t pos) {
    const auto [known, fresh] = ids_.try_emplace(std::string(rule_name), static_cast<uint32_t>(rules_.size()));
    if (fresh) {
      if (rules_.size() == kMaxRules) refuse(pos, fmt::format("more than {} rules", kMaxRules));
      rules_.emplace_back();
      names_.emplace_back(rule_name);
      first_use_.push_back(pos);
    }
    return known->second;
  }

  void read_rule() {
    const size_t start = pos_;
    const std::string_view rule_name = name();
    if (rule_name.empty()) refuse(start, "expected a rule's name");
    if (!take_definition()) refuse(pos_, "expected \"::=\"");
    const uint32_t id = rule_id(rule_name, start);
    if (rules_[id]) refuse(start, fmt::format("the rule \"{}\" is defined twice", rule_name));
    Expression body = choice(0);
    if (!at_end() && !at_rule()) refuse(pos_, "expected an item of the rule or the next rule");
    rules_[id] = std::move(body);
  }

  Expression choice(int depth) {
    if (depth > kMaxDepth) refuse(pos_, "groups are nested too deeply");
    Expression out{.kind = Kind::kChoice};
    do {
      skip_space();
      out.parts.push_back(sequence(depth));
      skip_space();
    } while (take("|"));
    return out.parts.size() == 1 ? std::move(out.parts[0]) : std::move(out);
  }

  Expression sequence(int depth) {
    Expression out{.kind = Kind::kSequence};
    while (true) {
      skip_space();
      if (at_end() || text_[pos_] == '|' || text_[pos_] == ')' || at_rule()) break;
      out.parts.push_back(repeated(depth));
    }
    if (out.parts.empty()) return {.kind = Kind::kRegex, .id = kEmpty};
    return out.parts.size() == 1 ? std::move(out.parts[0]) : std::move(out);
  }

  Expression repeated(int depth) {
    Expression item = atom(depth);
    for (skip_blanks();; skip_blanks()) {
      uint32_t min = 0;
      uint32_t max = kUnbounded;
      if (take("+")) {
        min = 1;
      } else if (take("?")) {
        max = 1;
      } else if (!take("*") && !braces(min, max)) {
        return item;
      }
      if (++repeats_ > kMaxCount) refuse(pos_, "too many repetitions");
      Expression out{.kind = Kind::kRepeat, .min = min, .max = max};
      out.parts.push_back(std::move(item));
      item = std::move(out);
      if (depth_of_repeats(item) > kMaxDepth) refuse(pos_, "repetitions are nested too deeply");
    }
  }

  static int depth_of_repeats(const Expression& expression) {
    int depth = 0;
    for (const Expression* at = &expression; at->kind == Kind::kRepeat; at = &at->parts[0]) ++depth;
    return depth;
  }

  void skip_blanks() {
    while (!at_end() && (text_[pos_] == ' ' || text_[pos_] == '\t')) ++pos_;
  }

  std::optional<uint32_t> number() {
    const size_t start = pos_;
    uint32_t value = 0;
    for (; !at_end() && text_[pos_] >= '0' && text_[pos_] <= '9'; ++pos_) {
      value = std::min(value * 10 + static_cast<uint32_t>(text_[pos_] - '0'), kMaxCount + 1);
    }
    if (pos_ == start) return std::nullopt;
    if (value > kMaxCount) refuse(start, fmt::format("a count above {}", kMaxCount));
    return value;
  }

  bool braces(uint32_t& min, uint32_t& max) {
    const size_t start = pos_;
    if (!take("{")) return false;
    const auto low = number();
    if (!low) refuse(start, "expected a count behind \"{\"");
    min = max = *low;
    if (take(",")) max = number().value_or(kUnbounded);
    if (!take("}")) refuse(start, "expected {m}, {m,} or {m,n}");
    if (max < min) refuse(start, "the counts are out of order");
    return true;
  }

  Expression atom(int depth) {
    const size_t start = pos_;
    if (const std::string_view rule_name = name(); !rule_name.empty()) {
      return {.kind = Kind::kRule, .id = rule_id(rule_name, start)};
    }
    switch (text_[pos_]) {
      case '(': {
        ++pos_;
        Expression inner = choice(depth + 1);
        if (!take(")")) refuse(start, "\"(\" without \")\"");
        return inner;
      }
      case '"':
      case '\'':
        return {.kind = Kind::kRegex, .id = pool_.literal(string())};
      case '[':
        return {.kind = Kind::kRegex, .id = utf8_class(pool_, bracket())};
      case '.':
        ++pos_;
        return {.kind = Kind::kRegex, .id = utf8_class(pool_, CodePoints::all())};
      case '/':
        return {.kind = Kind::kRegex, .id = regex()};
      default:
        refuse(start, "expected a string, a class, a rule's name or \"(\"");
    }
  }

  CodePoints bracket() {
    const size_t start = pos_;
    try {
      return parse_bracket_class(pool_, text_, pos_);
    } catch (const Error& error) {
      refuse(start, fmt::format("in this class: {}", error.what()));
    }
  }

  Regex regex() {
    const size_t start = pos_++;
    std::string pattern;
    while (!at_end() && text_[pos_] != '/' && text_[pos_] != '\n') {
      if (text_.substr(pos_).starts_with("\\/")) ++pos_;
      if (text_[pos_] == '\\' && pos_ + 1 < text_.size()) pattern += text_[pos_++];
      pattern += text_[pos_++];
    }
    if (!take("/")) refuse(start, "\"/\" without another one on the same line");
    try {
      return parse_pattern(pool_, pattern, utf8_class, PatternScope::kWhole);
    } catch (const Error& error) {
      refuse(start, fmt::format("in this expression: {}", error.what()));
    }
  }

  std::string string() {
    const size_t start = pos_;
    const char quote = text_[pos_++];
    std::string out;
    while (!at_end() && text_[pos_] != quote && text_[pos_] != '\n') {
      if (text_[pos_] == '\\') {
        escape(out);
      } else {
        out += text_[pos_++];
      }
    }
    if (!take(std::string_view(&quote, 1))) refuse(start, "the string has no end on its line");
    return out;
  }

  void escape(std::string& out) {
    constexpr std::string_view kLetters = "nrt\"'\\/";
    constexpr std::string_view kMeanings = "\n\r\t\"'\\/";
    const size_t start = pos_++;
    const char c = at_end() ? ' ' : text_[pos_++];
    if (const size_t at = kLetters.find(c); at != std::string_view::npos) {
      out += kMeanings[at];
    } else if (c == 'x' || c == 'u') {
      const char32_t code = hex(start, c == 'x' ? 2 : 4);
      if (code >= 0xD800 && code < 0xE000) refuse(start, "half of a surrogate pair");
      tok::append_utf8(out, code);
    } else {
      refuse(start, "this escape is not supported");
    }
  }

  char32_t hex(size_t start, int digits) {
    char32_t value = 0;
    for (; digits > 0; --digits) {
      constexpr std::string_view kHex = "0123456789abcdef";
      const size_t digit = at_end() ? std::string_view::npos : kHex.find(static_cast<char>(text_[pos_++] | 0x20));
      if (digit == std::string_view::npos) refuse(start, "expected hexadecimal digits");
      value = value * 16 + static_cast<char32_t>(digit);
    }
    return value;
  }

  RegexPool& pool_;
  std::string_view text_;
  size_t pos_ = 0;
  uint32_t repeats_ = 0;
  std::map<std::string, uint32_t> ids_;
  std::vector<std::optional<Expression>> rules_;
  std::vector<std::string> names_;
  std::vector<size_t> first_use_;
};

}  // namespace

Graph parse_ebnf(RegexPool& pool, std::string_view text) { return EbnfParser(pool, text).parse(); }

}  // namespace edgewise::grammar
