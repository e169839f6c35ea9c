// Sets of characters, and the bytes they are written with.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "grammar/regex_pool.h"

namespace edgewise::grammar {

constexpr char32_t kLastCodePoint = 0x10FFFF;

class CodePoints {
 public:
  struct Range {
    char32_t first;
    char32_t last;
  };

  CodePoints() = default;
  CodePoints(std::initializer_list<Range> ranges);
  explicit CodePoints(std::vector<Range> ranges);
  static CodePoints all();  // every character; surrogates are none

  void add(char32_t first, char32_t last);
  void add(const CodePoints& other);
  CodePoints inverted() const;
  CodePoints intersected(const CodePoints& other) const;
  bool has(char32_t c) const;
  bool empty() const { return ranges_.empty(); }
  const std::vector<Range>& ranges() const { return ranges_; }  // sorted, apart from each other, without surrogates

 private:
  void normalize();
  std::vector<Range> ranges_;
};

// One character of the set, in UTF-8.
Regex utf8_class(RegexPool& pool, const CodePoints& set);

// One character of the set as JSON strings hold it, in one spelling: plain UTF-8 where JSON allows it, otherwise the
// short escape, otherwise \u00xx in lower case. So two texts are equal exactly when their spellings are.
Regex json_class(RegexPool& pool, const CodePoints& set);

// `text`, well-formed UTF-8, in the same spelling, without quotes.
std::string json_spelling(std::string_view text);

}  // namespace edgewise::grammar
