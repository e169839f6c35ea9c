// Methods of str that search and split.
#include <algorithm>

#include "text/jinja/failure.h"
#include "text/jinja/methods.h"
#include "text/jinja/operators.h"
#include "text/jinja/unicode.h"

namespace edgewise::jinja {
namespace {

// text[start:end] by code points, as find() and its kin take it.
struct Window {
  std::string_view text;
  int64_t start;  // index of its first code point in the whole
  bool valid;     // false when start lies behind end or the text
};

Window window_of(const Value& self, const Value* first, const Value* last) {
  const auto length = static_cast<int64_t>(self.str().length);
  const auto bound = [length](const Value* value, int64_t otherwise) {
    if (value == nullptr || value->is_none()) return otherwise;
    const int64_t at = to_index(*value);
    return at < 0 ? std::max<int64_t>(at + length, 0) : at;
  };
  const int64_t start = bound(first, 0);
  const int64_t end = std::min(bound(last, length), length);
  if (start > end) return {{}, start, false};
  const std::string_view text = self.text();
  const size_t from =
      self.str().is_ascii() ? static_cast<size_t>(start) : byte_offset(text, static_cast<size_t>(start));
  const size_t to = self.str().is_ascii() ? static_cast<size_t>(end) : byte_offset(text, static_cast<size_t>(end));
  return {text.substr(from, to - from), start, true};
}

const std::string& string_argument(const Value& value) {
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is_str()) type_error("must be str, not {}", type_name(value));
  return value.text();
}

int64_t find_in(const Value& self, const Args& args, bool from_right) {
  const Signature given("find", args, {"sub", "start", "end"}, 1, 3);
  const std::string& needle = string_argument(*given[0]);
  const Window window = window_of(self, given[1], given[2]);
  if (!window.valid) return -1;
  Budget::step(static_cast<int64_t>(window.text.size() / 64));
  const size_t found = from_right ? window.text.rfind(needle) : window.text.find(needle);
  if (found == std::string_view::npos) return -1;
  return window.start + static_cast<int64_t>(count_code_points(window.text.substr(0, found)));
}

template <bool FromRight>
Value find(const Value& self, const Args& args) {
  return find_in(self, args, FromRight);
}

template <bool FromRight>
Value index(const Value& self, const Args& args) {
  const int64_t at = find_in(self, args, FromRight);
  if (at < 0) value_error("substring not found");
  return at;
}

Value count(const Value& self, const Args& args) {
  const Signature given("count", args, {"sub", "start", "end"}, 1, 3);
  const std::string& needle = string_argument(*given[0]);
  const Window window = window_of(self, given[1], given[2]);
  if (!window.valid) return int64_t{0};
  if (needle.empty()) return static_cast<int64_t>(count_code_points(window.text)) + 1;
  int64_t found = 0;
  for (size_t at = window.text.find(needle); at != std::string_view::npos; at = window.text.find(needle, at)) {
    ++found;
    at += needle.size();
  }
  Budget::step(found + static_cast<int64_t>(window.text.size() / 64));
  return found;
}

template <bool AtEnd>
Value affix(const Value& self, const Args& args) {
  const char* name = AtEnd ? "endswith" : "startswith";
  const Signature given(name, args, {"prefix", "start", "end"}, 1, 3);
  const Window window = window_of(self, given[1], given[2]);
  const auto matches = [&](const Value& candidate) {
    if (candidate.is_undefined()) fail_undefined(candidate);
    if (!candidate.is_str()) {
      type_error("{} first arg must be str or a tuple of str, not {}", name, type_name(candidate));
    }
    if (!window.valid) return false;
    return AtEnd ? window.text.ends_with(candidate.text()) : window.text.starts_with(candidate.text());
  };
  if (!given[0]->is(Kind::kTuple)) return matches(*given[0]);
  const auto& candidates = given[0]->items();
  return std::any_of(candidates.begin(), candidates.end(), matches);
}

Value strings(const Value& self, std::vector<std::string> parts) {
  std::vector<Value> items;
  items.reserve(parts.size());
  for (std::string& part : parts) items.push_back(make_str(std::move(part), self.is_markup()));
  return make_list(std::move(items));
}

const std::string* separator_of(const Value* value) {
  return value == nullptr || value->is_none() ? nullptr : &string_argument(*value);
}

Value split(const Value& self, const Args& args) {
  const Signature given("split", args, {"sep", "maxsplit"}, 0);
  return strings(self, split_text(self.text(), separator_of(given[0]), given.integer(1, -1)));
}

// Code points in reverse: rsplit() is split() in a mirror.
std::string mirrored(std::string_view text) {
  std::u32string code_points = decode(text);
  std::reverse(code_points.begin(), code_points.end());
  return encode(code_points);
}

Value rsplit(const Value& self, const Args& args) {
  const Signature given("rsplit", args, {"sep", "maxsplit"}, 0);
  const std::string* separator = separator_of(given[0]);
  const std::string reversed = separator ? mirrored(*separator) : "";
  auto parts = split_text(mirrored(self.text()), separator ? &reversed : nullptr, given.integer(1, -1));
  std::reverse(parts.begin(), parts.end());
  for (std::string& part : parts) part = mirrored(part);
  return strings(self, std::move(parts));
}

Value splitlines(const Value& self, const Args& args) {
  const Signature given("splitlines", args, {"keepends"}, 0);
  return strings(self, split_lines(self.text(), given.boolean(0, false)));
}

template <bool FromRight>
Value partition(const Value& self, const Args& args) {
  const Signature given("partition", args, {"sep"}, 1, 1);
  const std::string& separator = string_argument(*given[0]);
  if (separator.empty()) value_error("empty separator");
  const std::string& text = self.text();
  const auto part = [&](std::string value) { return make_str(std::move(value), self.is_markup()); };
  const size_t found = FromRight ? text.rfind(separator) : text.find(separator);
  if (found == std::string::npos) {
    return FromRight ? make_tuple({part(""), part(""), part(text)}) : make_tuple({part(text), part(""), part("")});
  }
  return make_tuple({part(text.substr(0, found)), part(separator), part(text.substr(found + separator.size()))});
}

constexpr NamedMethod kSearchMethods[] = {
    {"find", find<false>},
    {"rfind", find<true>},
    {"index", index<false>},
    {"rindex", index<true>},
    {"count", count},
    {"startswith", affix<false>},
    {"endswith", affix<true>},
    {"split", split},
    {"rsplit", rsplit},
    {"splitlines", splitlines},
    {"partition", partition<false>},
    {"rpartition", partition<true>},
};

}  // namespace

Method find_text_search_method(std::string_view name) {
  for (const NamedMethod& entry : kSearchMethods) {
    if (entry.name == name) return entry.method;
  }
  return nullptr;
}

}  // namespace edgewise::jinja
