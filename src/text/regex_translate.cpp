#include "text/regex_translate.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/error.h"

namespace edgewise::tok {
namespace {

// Oniguruma counts some superscripts and fractions of Latin-1 in.
constexpr std::string_view kWordMembers = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}";

// Names of properties that PCRE2 lacks or understands differently, without case, spaces, '_' and '-'.
constexpr std::pair<std::string_view, std::string_view> kProperties[] = {
    {"letter", "L"},
    {"lowercaseletter", "Ll"},
    {"uppercaseletter", "Lu"},
    {"titlecaseletter", "Lt"},
    {"modifierletter", "Lm"},
    {"otherletter", "Lo"},
    {"mark", "M"},
    {"nonspacingmark", "Mn"},
    {"spacingmark", "Mc"},
    {"enclosingmark", "Me"},
    {"number", "N"},
    {"decimalnumber", "Nd"},
    {"letternumber", "Nl"},
    {"othernumber", "No"},
    {"punctuation", "P"},
    {"dashpunctuation", "Pd"},
    {"openpunctuation", "Ps"},
    {"connectorpunctuation", "Pc"},
    {"finalpunctuation", "Pf"},
    {"closepunctuation", "Pe"},
    {"initialpunctuation", "Pi"},
    {"otherpunctuation", "Po"},
    {"symbol", "S"},
    {"mathsymbol", "Sm"},
    {"currencysymbol", "Sc"},
    {"modifiersymbol", "Sk"},
    {"othersymbol", "So"},
    {"separator", "Z"},
    {"spaceseparator", "Zs"},
    {"lineseparator", "Zl"},
    {"paragraphseparator", "Zp"},
    {"other", "C"},
    {"control", "Cc"},
    {"cntrl", "Cc"},
    {"format", "Cf"},
    {"surrogate", "Cs"},
    {"privateuse", "Co"},
    {"unassigned", "Cn"},
    {"alpha", "Alphabetic"},
    {"upper", "Uppercase"},
    {"lower", "Lowercase"},
    {"space", "White_Space"},
    {"digit", "Nd"},
    {"xdigit", "ASCII_Hex_Digit"},
    {"punct", "P"},
};

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : in_(pattern), where_(where) {}

  std::string run() {
    while (pos_ < in_.size()) {
      const char c = in_[pos_];
      if (c == '\\') {
        begin_atom();
        escape(false);
      } else if (c == '[') {
        begin_atom();
        bracket();
      } else if (c == '(') {
        open_group();
      } else if (c == ')') {
        close_group();
      } else if (c == '{') {
        braces();
      } else {
        if (c != '*' && c != '+' && c != '?') begin_atom();
        out_ += in_[pos_++];
      }
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(std::string_view what) {
    unsupported("{}: the regular expression \"{}\" uses {}, which Edgewise does not implement", where_, in_, what);
  }

  char peek(size_t ahead) const { return pos_ + ahead < in_.size() ? in_[pos_ + ahead] : '\0'; }
  void begin_atom() { atom_ = out_.size(); }
  void copy(size_t count) {
    out_ += in_.substr(pos_, count);
    pos_ += count;
  }
  void replace(size_t consumed, std::string_view with) {
    out_ += with;
    pos_ += consumed;
  }

  void escape(bool in_class) {
    const char c = peek(1);
    switch (c) {
      case 'h':
        return replace(2, "\\p{ASCII_Hex_Digit}");
      case 'H':
        return replace(2, "\\P{ASCII_Hex_Digit}");
      case 's':
        return replace(2, "\\p{White_Space}");
      case 'S':
        return replace(2, "\\P{White_Space}");
      case 'd':
        return replace(2, "\\p{Nd}");
      case 'D':
        return replace(2, "\\P{Nd}");
      case 'w':
        return word_class(in_class, false);
      case 'W':
        return word_class(in_class, true);
      case 'p':
      case 'P':
        return property(in_class);
      case 'u':
        return code_point();
      case 'Q':
      case 'E':
        return replace(2, std::string_view(&in_[pos_ + 1], 1));  // no quoting in Ruby's syntax
      case 'b':
      case 'B':
        if (in_class) return copy(2);
        return word_boundary(c == 'B');
      case 'O':
        if (!in_class) return replace(2, "(?s:.)");
        refuse("\\O in a character class");
      case '\0':
        refuse("a trailing backslash");
      default:
        return copy(2);
    }
  }

  void word_class(bool in_class, bool negated) {
    pos_ += 2;
    if (in_class && negated) refuse("\\W in a character class");
    if (in_class) {
      out_ += kWordMembers;
    } else {
      out_ += fmt::format("[{}{}]", negated ? "^" : "", kWordMembers);
    }
  }

  void word_boundary(bool negated) {
    const std::string word = fmt::format("[{}]", kWordMembers);
    const std::string edge = fmt::format("(?:(?<={0})(?!{0})|(?<!{0})(?={0}))", word);
    replace(2, negated ? fmt::format("(?!{})", edge) : edge);
  }

  void code_point() {
    for (size_t i = 2; i < 6; ++i) {
      if (!is_hex(peek(i))) refuse("\\u without four hexadecimal digits");
    }
    replace(6, fmt::format("\\x{{{}}}", in_.substr(pos_ + 2, 4)));
  }

  void property(bool in_class) {
    bool negated = peek(1) == 'P';
    const size_t close = peek(2) == '{' ? in_.find('}', pos_) : std::string_view::npos;
    if (close == std::string_view::npos) return copy(2);  // \pL
    std::string_view raw = in_.substr(pos_ + 3, close - pos_ - 3);
    if (!raw.empty() && raw[0] == '^') {
      negated = !negated;
      raw.remove_prefix(1);
    }
    std::string name;
    for (const char c : raw) {
      if (c != ' ' && c != '_' && c != '-') name += static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
    }
    pos_ = close + 1;
    if (name == "word" || name == "alnum") return combined(name, in_class, negated);
    out_ += fmt::format("\\{}{{{}}}", negated ? 'P' : 'p', pcre_property(name, raw));
  }

  std::string pcre_property(const std::string& name, std::string_view raw) {
    for (const auto& [from, to] : kProperties) {
      if (name == from) return std::string(to);
    }
    if (name.size() <= 2 || raw.find_first_of("\\{}:") != std::string_view::npos) return std::string(raw);
    // A bare script name means the script itself in Oniguruma, but script extensions in PCRE2.
    const std::string script = fmt::format("sc:{}", raw);
    return regex_compiles(fmt::format("\\p{{{}}}", script)) ? script : std::string(raw);
  }

  void combined(const std::string& name, bool in_class, bool negated) {
    const std::string members(name == "word" ? kWordMembers : "\\p{Alphabetic}\\p{Nd}");
    if (!in_class) {
      out_ += fmt::format("[{}{}]", negated ? "^" : "", members);
      return;
    }
    if (negated) refuse("a negated word or alnum property in a character class");
    out_ += members;
  }

  void bracket() {
    copy(1);
    if (peek(0) == '^') copy(1);
    if (peek(0) == ']') copy(1);
    while (pos_ < in_.size() && in_[pos_] != ']') {
      if (in_[pos_] == '\\') {
        escape(true);
      } else if (in_[pos_] == '[') {
        posix_class();
      } else if (in_[pos_] == '&' && peek(1) == '&') {
        refuse("an intersection of character classes");
      } else {
        copy(1);
      }
    }
    if (pos_ == in_.size()) refuse("a character class without its ']'");
    copy(1);
  }

  void posix_class() {
    const size_t close = peek(1) == ':' ? in_.find(":]", pos_ + 2) : std::string_view::npos;
    if (close == std::string_view::npos) refuse("a character class inside another");
    std::string_view name = in_.substr(pos_ + 2, close - pos_ - 2);
    const bool negated = !name.empty() && name[0] == '^';
    if (negated) name.remove_prefix(1);
    if (name == "alnum" || name == "word") {
      pos_ = close + 2;
      return combined(std::string(name), true, negated);
    }
    if (name == "punct" && !negated) {
      pos_ = close + 2;
      out_ += "\\p{P}\\p{S}";
      return;
    }
    constexpr std::string_view kByProperty[] = {"alpha", "upper", "lower", "space", "digit", "xdigit", "cntrl"};
    if (std::find(std::begin(kByProperty), std::end(kByProperty), name) == std::end(kByProperty)) {
      return copy(close + 2 - pos_);
    }
    pos_ = close + 2;
    out_ += fmt::format("\\{}{{{}}}", negated ? 'P' : 'p', pcre_property(std::string(name), name));
  }

  void open_group() {
    if (peek(1) == '*') refuse("(*");
    groups_.push_back(out_.size());
    if (peek(1) != '?') return copy(1);
    size_t end = pos_ + 2;
    const auto is_option = [](char c) { return c == 'i' || c == 'm' || c == 'x' || c == '-'; };
    while (end < in_.size() && is_option(in_[end])) ++end;
    if (end == in_.size() || (in_[end] != ':' && in_[end] != ')')) return copy(2);
    std::string options(in_.substr(pos_, end - pos_));
    std::replace(options.begin(), options.end(), 'm', 's');  // Ruby's (?m) lets '.' match line ends
    replace(end - pos_, options);
    if (in_[pos_] == ':') copy(1);
  }

  void close_group() {
    copy(1);
    atom_ = out_.size();
    if (groups_.empty()) return;
    atom_ = groups_.back();
    groups_.pop_back();
  }

  // {n,m}+ repeats the repetition in Ruby's syntax, but is possessive in PCRE2; {,m} is literal in PCRE2.
  void braces() {
    size_t end = pos_ + 1;
    while (end < in_.size() && (is_digit(in_[end]) || in_[end] == ',')) ++end;
    const bool quantifier = end > pos_ + 1 && end < in_.size() && in_[end] == '}' && in_[pos_ + 1] != '}';
    if (!quantifier) {
      begin_atom();
      return replace(1, "\\{");
    }
    std::string text(in_.substr(pos_, end + 1 - pos_));
    if (text[1] == ',') text.insert(1, "0");
    pos_ = end + 1;
    out_ += text;
    if (peek(0) == '+') {
      out_.insert(atom_, "(?:");
      out_ += ')';
    }
  }

  std::string_view in_;
  const std::string& where_;
  size_t pos_ = 0;
  std::string out_;
  size_t atom_ = 0;             // where the last atom starts in out_
  std::vector<size_t> groups_;  // where the open groups start in out_
};

}  // namespace

std::string translate_regex(std::string_view pattern, const std::string& where) {
  return Translator(pattern, where).run();
}

}  // namespace edgewise::tok
