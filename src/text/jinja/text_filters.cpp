// Filters on text.
#include <algorithm>

#include "text/jinja/failure.h"
#include "text/jinja/filters.h"
#include "text/jinja/format.h"
#include "text/jinja/methods.h"
#include "text/jinja/operators.h"
#include "text/jinja/unicode.h"

namespace edgewise::jinja {
namespace {

// A str method as a filter: the value becomes text first, Markup stays Markup.
template <std::string (*Transform)(std::string_view)>
Value transformed(const Value& value, const Args& args) {
  Signature("filter", args, {}, 0);
  const Value text = to_soft_str(value);
  return make_str(Transform(text.text()), text.is_markup());
}

// jinja2's own idea of words: white space, dashes and opening brackets separate them.
Value title(const Value& value, const Args& args) {
  Signature("title", args, {}, 0);
  std::string out;
  std::string word;
  const auto flush = [&] {
    if (word.empty()) return;
    const size_t first = byte_offset(word, 1);
    out += to_upper(std::string_view(word).substr(0, first)) + to_lower(std::string_view(word).substr(first));
    word.clear();
  };
  for (const char32_t c : decode(to_text(value))) {
    const bool separates = is_space(c) || c == U'-' || c == U'(' || c == U'{' || c == U'[' || c == U'<';
    if (separates) flush();
    append_code_point(separates ? out : word, c);
  }
  flush();
  return make_str(std::move(out));
}

Value trim(const Value& value, const Args& args) {
  const Signature given("trim", args, {"chars"}, 0);
  const Value text = to_soft_str(value);
  return make_str(std::string(strip_text(text.text(), given[0], true, true)), text.is_markup());
}

Value replace(const Value& value, const Args& args) {
  const Signature given("replace", args, {"old", "new", "count"}, 2);
  const Value* count = given[2];
  const int64_t limit = count == nullptr || count->is_none() ? -1 : to_index(*count);
  return make_str(replace_text(to_text(value), to_text(*given[0]), to_text(*given[1]), limit));
}

Value center(const Value& value, const Args& args) {
  const Signature given("center", args, {"width"}, 0);
  const Value text = to_soft_str(value);
  return find_string_method("center")(text, Args{{Value(given.integer(0, 80))}, {}});
}

// A str or something with the methods used; the rest has no splitlines() or slicing.
const std::string& text_of(const Value& value, const char* filter) {
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is_str()) type_error("{}: a str is required, not '{}'", filter, type_name(value));
  return value.text();
}

Value indent(const Value& value, const Args& args) {
  const Signature given("indent", args, {"width", "first", "blank"}, 0);
  const std::string text = text_of(value, "indent") + "\n";
  std::string indention(4, ' ');
  if (const Value* width = given[0]) {
    if (width->is_str()) {
      indention = width->text();
    } else {
      const int64_t count = to_index(*width);
      Budget::check_text(count > 0 ? static_cast<size_t>(count) : 0);
      indention.assign(count > 0 ? static_cast<size_t>(count) : 0, ' ');
    }
  }
  const bool blank = given.boolean(2, false);
  std::string out = given.boolean(1, false) ? indention : "";
  const std::vector<std::string> lines = split_lines(text, false);
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    if (i > 0 && (blank || !lines[i].empty())) out += indention;
    out += lines[i];
    Budget::check_text(out.size());
  }
  return make_str(std::move(out), value.is_markup());
}

Value truncate(const Value& value, const Args& args) {
  const Signature given("truncate", args, {"length", "killwords", "end", "leeway"}, 0);
  const int64_t length = given.integer(0, 255);
  const std::string end = given[2] ? text_of(*given[2], "truncate") : "...";
  const Value* slack = given[3];
  const int64_t leeway = slack == nullptr || slack->is_none() ? 5 : to_index(*slack);
  const auto end_length = static_cast<int64_t>(count_code_points(end));
  if (length < end_length)
    throw Failure("AssertionError", fmt::format("expected length >= {}, got {}", end_length, length));
  if (leeway < 0) throw Failure("AssertionError", fmt::format("expected leeway >= 0, got {}", leeway));
  const std::string& text = text_of(value, "truncate");
  const auto size = static_cast<int64_t>(value.str().length);
  if (size <= length || size - length <= leeway) return value;
  std::string kept = text.substr(0, byte_offset(text, static_cast<size_t>(length - end_length)));
  if (!given.boolean(1, false)) {
    const size_t space = kept.rfind(' ');
    if (space != std::string::npos) kept.resize(space);
  }
  return make_str(kept + end, value.is_markup());
}

Value word_count(const Value& value, const Args& args) {
  Signature("wordcount", args, {}, 0);
  int64_t words = 0;
  bool inside = false;
  for (const char32_t c : decode(to_text(value))) {
    const bool part = is_word(c);
    words += part && !inside ? 1 : 0;
    inside = part;
  }
  return words;
}

Value escape_filter(const Value& value, const Args& args) {
  Signature("escape", args, {}, 0);
  return escape(value);
}

Value force_escape(const Value& value, const Args& args) {
  Signature("forceescape", args, {}, 0);
  return escape(make_str(to_text(value)));
}

Value safe(const Value& value, const Args& args) {
  Signature("safe", args, {}, 0);
  return make_str(to_text(value), true);
}

Value string(const Value& value, const Args& args) {
  Signature("string", args, {}, 0);
  return to_soft_str(value);
}

Value format(const Value& value, const Args& args) {
  if (!args.positional.empty() && !args.named.empty()) {
    argument_error("can't handle positional and keyword arguments at the same time");
  }
  const Value text = to_soft_str(value);
  if (args.named.empty()) return format_percent(text, make_tuple(args.positional));
  std::vector<std::pair<Value, Value>> items;
  for (const auto& [name, argument] : args.named) items.emplace_back(make_str(name), argument);
  return format_percent(text, make_dict(std::move(items)));
}

std::string url_quoted(const Value& value, bool query) {
  std::string out;
  for (const char c : to_text(value)) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
                       c == '.' || c == '-' || c == '~' || (c == '/' && !query);
    if (plain)
      out += c;
    else if (c == ' ' && query)
      out += '+';
    else
      out += fmt::format("%{:02X}", static_cast<unsigned>(static_cast<unsigned char>(c)));
  }
  return out;
}

Value url_encode(const Value& value, const Args& args) {
  Signature("urlencode", args, {}, 0);
  if (value.is_str() || !is_iterable(value)) return make_str(url_quoted(value, false));
  std::string out;
  const Value pairs = value.is(Kind::kDict) ? make_dict_view(value.dict_ptr(), DictPart::kItems) : value;
  const Next next = iterate(pairs);
  for (Value item; next(item);) {
    const std::vector<Value> pair = to_vector(item);
    if (pair.size() != 2) value_error("expected pairs to encode");
    if (!out.empty()) out += '&';
    out += url_quoted(pair[0], true) + "=" + url_quoted(pair[1], true);
  }
  return make_str(std::move(out));
}

constexpr NamedFilter kTextFilters[] = {
    {"upper", transformed<to_upper>},
    {"lower", transformed<to_lower>},
    {"capitalize", transformed<to_capitalized>},
    {"title", title},
    {"trim", trim},
    {"replace", replace},
    {"center", center},
    {"indent", indent},
    {"truncate", truncate},
    {"wordcount", word_count},
    {"escape", escape_filter},
    {"e", escape_filter},
    {"forceescape", force_escape},
    {"safe", safe},
    {"string", string},
    {"format", format},
    {"urlencode", url_encode},
};

}  // namespace

Filter find_text_filter(std::string_view name) {
  for (const NamedFilter& entry : kTextFilters) {
    if (entry.name == name) return entry.filter;
  }
  return nullptr;
}

}  // namespace edgewise::jinja
