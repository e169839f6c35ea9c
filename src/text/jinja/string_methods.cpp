// Methods of str that give strings or tell what a string consists of. Search and splitting stand in
// string_search_methods.cpp.
#include <algorithm>

#include "text/jinja/failure.h"
#include "text/jinja/format.h"
#include "text/jinja/format_number.h"
#include "text/jinja/methods.h"
#include "text/jinja/operators.h"
#include "text/jinja/unicode.h"

namespace edgewise::jinja {
namespace {

Value like(const Value& self, std::string text) { return make_str(std::move(text), self.is_markup()); }

template <std::string (*Transform)(std::string_view)>
Value transformed(const Value& self, const Args& args) {
  Signature("str method", args, {}, 0);
  return like(self, Transform(self.text()));
}

// True when there is a code point and all satisfy the predicate.
template <bool (*Predicate)(char32_t)>
Value all_are(const Value& self, const Args& args) {
  Signature("str method", args, {}, 0);
  const std::u32string code_points = decode(self.text());
  return !code_points.empty() && std::all_of(code_points.begin(), code_points.end(), Predicate);
}

Value is_ascii(const Value& self, const Args& args) {
  Signature("isascii", args, {}, 0);
  return self.str().is_ascii();
}

Value is_printable_text(const Value& self, const Args& args) {
  Signature("isprintable", args, {}, 0);
  const std::u32string code_points = decode(self.text());
  return std::all_of(code_points.begin(), code_points.end(), is_printable);
}

Value is_identifier(const Value& self, const Args& args) {
  Signature("isidentifier", args, {}, 0);
  const std::u32string code_points = decode(self.text());
  return !code_points.empty() && is_identifier_start(code_points[0]) &&
         std::all_of(code_points.begin(), code_points.end(), is_identifier_part);
}

// islower() and isupper(): some cased code point, and none of the other case.
template <bool (*Wanted)(char32_t), bool (*Other)(char32_t)>
Value one_case(const Value& self, const Args& args) {
  Signature("str method", args, {}, 0);
  bool any = false;
  for (const char32_t c : decode(self.text())) {
    if (Other(c) || is_title(c)) return false;
    any = any || Wanted(c);
  }
  return any;
}

Value is_title_text(const Value& self, const Args& args) {
  Signature("istitle", args, {}, 0);
  bool any = false;
  bool after_cased = false;
  for (const char32_t c : decode(self.text())) {
    const bool upper = is_upper(c) || is_title(c);
    if (upper ? after_cased : is_lower(c) && !after_cased) return false;
    after_cased = upper || is_lower(c);
    any = any || after_cased;
  }
  return any;
}

template <bool Left, bool Right>
Value strip(const Value& self, const Args& args) {
  const Signature given("strip", args, {"chars"}, 0, 1);
  return like(self, std::string(strip_text(self.text(), given[0], Left, Right)));
}

const Value& string_argument(const Value& value) {
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is_str()) type_error("a str is required, not '{}'", type_name(value));
  return value;
}

Value replace(const Value& self, const Args& args) {
  const Signature given("replace", args, {"old", "new", "count"}, 2, 3);
  const Value& old = string_argument(*given[0]);
  const Value with = self.is_markup() ? escape(*given[1]) : string_argument(*given[1]);
  return like(self, replace_text(self.text(), old.text(), with.text(), given.integer(2, -1)));
}

Value join(const Value& self, const Args& args) {
  const Signature given("join", args, {"iterable"}, 1, 1);
  std::string out;
  const Next next = iterate(*given[0]);
  bool first = true;
  for (Value item; next(item); first = false) {
    if (!first) out += self.text();
    if (self.is_markup()) {
      out += escape(item).text();
    } else {
      if (!item.is_str()) type_error("sequence item: expected str instance, {} found", type_name(item));
      out += item.text();
    }
    Budget::check_text(out.size());
  }
  return like(self, std::move(out));
}

// Where the padding of ljust, rjust and center goes.
enum class Side { kLeft, kRight, kBoth };

template <Side side>
Value justify(const Value& self, const Args& args) {
  const Signature given("str method", args, {"width", "fillchar"}, 1, 2);
  const int64_t width = given.integer(0, 0);
  const Value fill = given.get(1, make_str(" "));
  if (!fill.is_str() || fill.str().length != 1) type_error("The fill character must be exactly one character long");
  const auto length = static_cast<int64_t>(self.str().length);
  if (width <= length) return self;
  Budget::check_text(static_cast<size_t>(width));
  const int64_t missing = width - length;
  // str.center puts the odd one to the left when the width is odd.
  const int64_t left = side == Side::kLeft ? missing : side == Side::kRight ? 0 : missing / 2 + (missing & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill.text();
  out += self.text();
  for (int64_t i = left; i < missing; ++i) out += fill.text();
  return like(self, std::move(out));
}

Value zero_fill(const Value& self, const Args& args) {
  const Signature given("zfill", args, {"width"}, 1, 1);
  const int64_t width = given.integer(0, 0);
  const auto length = static_cast<int64_t>(self.str().length);
  if (width <= length) return self;
  Budget::check_text(static_cast<size_t>(width));
  std::string text = self.text();
  const bool has_sign = !text.empty() && (text[0] == '+' || text[0] == '-');
  text.insert(has_sign ? 1 : 0, static_cast<size_t>(width - length), '0');
  return like(self, std::move(text));
}

Value expand_tabs(const Value& self, const Args& args) {
  const Signature given("expandtabs", args, {"tabsize"}, 0);
  const int64_t size = given.integer(0, 8);
  Budget::check_text(size > 0 ? static_cast<size_t>(size) : 0);
  std::string out;
  int64_t column = 0;
  for (const char32_t c : decode(self.text())) {
    if (c == U'\t') {
      const int64_t spaces = size > 0 ? size - column % size : 0;
      out.append(static_cast<size_t>(spaces), ' ');
      column += spaces;
    } else {
      append_code_point(out, c);
      column = c == U'\n' || c == U'\r' ? 0 : column + 1;
    }
    Budget::check_text(out.size());
  }
  return like(self, std::move(out));
}

Value remove_prefix(const Value& self, const Args& args) {
  const Signature given("removeprefix", args, {"prefix"}, 1, 1);
  const std::string& prefix = string_argument(*given[0]).text();
  return self.text().starts_with(prefix) ? like(self, self.text().substr(prefix.size())) : self;
}

Value remove_suffix(const Value& self, const Args& args) {
  const Signature given("removesuffix", args, {"suffix"}, 1, self.is_markup() ? 0 : 1);
  const std::string& suffix = string_argument(*given[0]).text();
  const std::string& text = self.text();
  return text.ends_with(suffix) ? like(self, text.substr(0, text.size() - suffix.size())) : self;
}

Value format_map(const Value& self, const Args& args) {
  const Signature given("format_map", args, {"mapping"}, 1, 1);
  if (!given[0]->is(Kind::kDict)) type_error("format_map() argument must be a mapping");
  Args named;
  for (const auto& [key, value] : given[0]->dict().items) {
    if (key.is_str()) named.named.emplace_back(key.text(), value);
  }
  return format_braces(self, named);
}

constexpr NamedMethod kMethods[] = {
    {"upper", transformed<to_upper>},
    {"lower", transformed<to_lower>},
    {"title", transformed<to_title>},
    {"capitalize", transformed<to_capitalized>},
    {"swapcase", transformed<to_swapped_case>},
    {"casefold", transformed<to_folded>},
    {"isalpha", all_are<is_alpha>},
    {"isdecimal", all_are<is_decimal>},
    {"isdigit", all_are<is_digit>},
    {"isnumeric", all_are<is_numeric>},
    {"isalnum", all_are<is_alnum>},
    {"isspace", all_are<is_space>},
    {"isascii", is_ascii},
    {"isprintable", is_printable_text},
    {"isidentifier", is_identifier},
    {"islower", one_case<is_lower, is_upper>},
    {"isupper", one_case<is_upper, is_lower>},
    {"istitle", is_title_text},
    {"strip", strip<true, true>},
    {"lstrip", strip<true, false>},
    {"rstrip", strip<false, true>},
    {"replace", replace},
    {"join", join},
    {"ljust", justify<Side::kRight>},
    {"rjust", justify<Side::kLeft>},
    {"center", justify<Side::kBoth>},
    {"zfill", zero_fill},
    {"expandtabs", expand_tabs},
    {"removeprefix", remove_prefix},
    {"removesuffix", remove_suffix},
    {"format", format_braces},
    {"format_map", format_map},
};

}  // namespace

Method find_string_method(std::string_view name) {
  for (const NamedMethod& entry : kMethods) {
    if (entry.name == name) return entry.method;
  }
  return find_text_search_method(name);
}

}  // namespace edgewise::jinja
