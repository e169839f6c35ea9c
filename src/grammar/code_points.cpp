#include "grammar/code_points.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "text/utf8.h"

namespace edgewise::grammar {
namespace {

constexpr char32_t kFirstSurrogate = 0xD800;
constexpr char32_t kLastSurrogate = 0xDFFF;

struct Encoded {
  std::array<uint8_t, 4> bytes;
  int size;
};

Encoded encode(char32_t c) {
  std::string text;
  tok::append_utf8(text, c);
  Encoded out{{}, static_cast<int>(text.size())};
  for (int i = 0; i < out.size; ++i) out.bytes[i] = static_cast<uint8_t>(text[i]);
  return out;
}

// Texts between `low` and `high`, of equal length, from byte `at` on.
Regex between(RegexPool& pool, const Encoded& low, const Encoded& high, int at) {
  const uint8_t first = low.bytes[at];
  const uint8_t last = high.bytes[at];
  if (at + 1 == low.size) return pool.bytes(ByteSet::range(first, last));
  const auto step = [&](int from, int to, const Encoded& tail_low, const Encoded& tail_high) {
    return pool.concat(pool.bytes(ByteSet::range(from, to)), between(pool, tail_low, tail_high, at + 1));
  };
  if (first == last) return step(first, last, low, high);
  const Encoded lowest{{0x80, 0x80, 0x80, 0x80}, low.size};
  const Encoded highest{{0xBF, 0xBF, 0xBF, 0xBF}, low.size};
  std::vector<Regex> options;
  const auto all_after = [&](const Encoded& bound, uint8_t filler) {
    return std::all_of(bound.bytes.begin() + at + 1, bound.bytes.begin() + bound.size,
                       [&](uint8_t byte) { return byte == filler; });
  };
  int from = first;
  int to = last;
  if (!all_after(low, 0x80)) options.push_back(step(from++, first, low, highest));
  if (!all_after(high, 0xBF)) options.push_back(step(to--, last, lowest, high));
  if (from <= to) options.push_back(step(from, to, lowest, highest));
  return pool.either(std::move(options));
}

// The escape that `c` needs in a JSON string; empty for none.
std::string escape_of(char32_t c) {
  switch (c) {
    case '"':
      return "\\\"";
    case '\\':
      return "\\\\";
    case '\b':
      return "\\b";
    case '\f':
      return "\\f";
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      return c < 0x20 ? fmt::format("\\u{:04x}", static_cast<uint32_t>(c)) : "";
  }
}

}  // namespace

CodePoints::CodePoints(std::initializer_list<Range> ranges) : ranges_(ranges) { normalize(); }

CodePoints::CodePoints(std::vector<Range> ranges) : ranges_(std::move(ranges)) { normalize(); }

CodePoints CodePoints::all() { return {{0, kLastCodePoint}}; }

void CodePoints::normalize() {
  std::vector<Range> parts;
  for (const Range& range : ranges_) {
    if (range.first < kFirstSurrogate) {
      parts.push_back({range.first, std::min<char32_t>(range.last, kFirstSurrogate - 1)});
    }
    if (range.last > kLastSurrogate) {
      parts.push_back({std::max<char32_t>(range.first, kLastSurrogate + 1), range.last});
    }
  }
  std::ranges::sort(parts, {}, &Range::first);
  ranges_.clear();
  for (const Range& part : parts) {
    if (!ranges_.empty() && part.first <= ranges_.back().last + 1) {
      ranges_.back().last = std::max(ranges_.back().last, part.last);
    } else {
      ranges_.push_back(part);
    }
  }
}

void CodePoints::add(char32_t first, char32_t last) {
  ranges_.push_back({first, last});
  normalize();
}

void CodePoints::add(const CodePoints& other) {
  ranges_.insert(ranges_.end(), other.ranges_.begin(), other.ranges_.end());
  normalize();
}

CodePoints CodePoints::inverted() const {
  CodePoints out;
  char32_t next = 0;
  for (const Range& range : ranges_) {
    if (range.first > next) out.ranges_.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= kLastCodePoint) out.ranges_.push_back({next, kLastCodePoint});
  out.normalize();
  return out;
}

CodePoints CodePoints::intersected(const CodePoints& other) const {
  CodePoints outside = inverted();
  outside.add(other.inverted());
  return outside.inverted();
}

bool CodePoints::has(char32_t c) const {
  return std::ranges::any_of(ranges_, [&](const Range& range) { return range.first <= c && c <= range.last; });
}

Regex utf8_class(RegexPool& pool, const CodePoints& set) {
  constexpr char32_t kLengthEnds[] = {0x7F, 0x7FF, 0xFFFF, kLastCodePoint};
  std::vector<Regex> options;
  for (const CodePoints::Range& range : set.ranges()) {
    char32_t first = range.first;
    for (const char32_t end : kLengthEnds) {
      if (first > range.last) break;
      if (first > end) continue;
      const char32_t last = std::min(range.last, end);
      options.push_back(between(pool, encode(first), encode(last), 0));
      first = last + 1;
    }
  }
  return pool.either(std::move(options));
}

Regex json_class(RegexPool& pool, const CodePoints& set) {
  const CodePoints plain{{0x20, '"' - 1}, {'"' + 1, '\\' - 1}, {'\\' + 1, kLastCodePoint}};
  std::vector<std::string> escapes;
  for (char32_t c = 0; c < 0x80; ++c) {
    const std::string escape = escape_of(c);
    if (!escape.empty() && set.has(c)) escapes.push_back(escape);
  }
  return pool.either({utf8_class(pool, set.intersected(plain)), pool.any_of(std::move(escapes))});
}

std::string json_spelling(std::string_view text) {
  std::string out;
  for (size_t pos = 0; pos < text.size();) {
    const char32_t c = tok::next_char(text, pos);
    const std::string escape = escape_of(c);
    if (escape.empty()) {
      tok::append_utf8(out, c);
    } else {
      out += escape;
    }
  }
  return out;
}

}  // namespace edgewise::grammar
