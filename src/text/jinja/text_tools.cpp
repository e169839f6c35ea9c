// Splitting, stripping and replacing as Python's str does; shared by methods and filters.
#include <algorithm>

#include "text/jinja/failure.h"
#include "text/jinja/methods.h"
#include "text/jinja/operators.h"
#include "text/jinja/unicode.h"

namespace edgewise::jinja {
namespace {

// Moves `end` back over one code point and returns that.
char32_t previous_code_point(std::string_view text, size_t& end) {
  do {
    --end;
  } while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80);
  size_t at = end;
  return next_code_point(text, at);
}

std::vector<std::string> split_at_spaces(std::string_view text, int64_t limit) {
  std::vector<std::string> parts;
  size_t at = 0;
  const auto skip = [&](bool spaces) {
    while (at < text.size()) {
      size_t after = at;
      if (is_space(next_code_point(text, after)) != spaces) break;
      at = after;
    }
  };
  for (skip(true); at < text.size(); skip(true)) {
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.emplace_back(text.substr(at));
      break;
    }
    const size_t start = at;
    skip(false);
    parts.emplace_back(text.substr(start, at - start));
  }
  return parts;
}

}  // namespace

std::vector<std::string> split_text(std::string_view text, const std::string* separator, int64_t limit) {
  if (separator == nullptr) return split_at_spaces(text, limit);
  if (separator->empty()) value_error("empty separator");
  std::vector<std::string> parts;
  size_t start = 0;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t found = text.find(*separator, start);
    if (found == std::string_view::npos) break;
    parts.emplace_back(text.substr(start, found - start));
    start = found + separator->size();
    Budget::step();
    Budget::check_items(parts.size());
  }
  parts.emplace_back(text.substr(start));
  return parts;
}

std::vector<std::string> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string> lines;
  size_t start = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = at;
    const char32_t c = next_code_point(text, at);
    const bool breaks = (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (!breaks) continue;
    if (c == U'\r' && at < text.size() && text[at] == '\n') ++at;
    lines.emplace_back(text.substr(start, (keep_ends ? at : end) - start));
    start = at;
    Budget::step();
  }
  if (start < text.size()) lines.emplace_back(text.substr(start));
  return lines;
}

std::string_view strip_text(std::string_view text, const Value* characters, bool left, bool right) {
  std::u32string set;
  const bool spaces = characters == nullptr || characters->is_none();
  if (!spaces) {
    if (!characters->is_str()) type_error("strip arg must be None or str");
    set = decode(characters->text());
  }
  const auto drops = [&](char32_t c) { return spaces ? is_space(c) : set.find(c) != std::u32string::npos; };
  size_t start = 0;
  size_t end = text.size();
  while (left && start < end) {
    size_t after = start;
    if (!drops(next_code_point(text, after))) break;
    start = after;
  }
  while (right && end > start) {
    size_t before = end;
    if (!drops(previous_code_point(text, before))) break;
    end = before;
  }
  return text.substr(start, end - start);
}

std::string replace_text(const std::string& text, const std::string& old, const std::string& with, int64_t limit) {
  std::string out;
  size_t start = 0;
  for (int64_t count = 0; limit < 0 || count < limit; ++count) {
    if (old.empty()) {
      // Python puts `with` in front of every code point and at the end.
      out += with;
      if (start == text.size()) return out;
      const size_t from = start;
      next_code_point(text, start);
      out.append(text, from, start - from);
    } else {
      const size_t found = text.find(old, start);
      if (found == std::string::npos) break;
      out.append(text, start, found - start);
      out += with;
      start = found + old.size();
    }
    Budget::step();
    Budget::check_text(out.size());
  }
  out.append(text, std::min(start, text.size()), std::string::npos);
  return out;
}

}  // namespace edgewise::jinja
