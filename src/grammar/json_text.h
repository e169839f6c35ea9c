// The terminals of JSON. Strings without constraints may use every escape; numbers are bounded so that every reader
// takes them: integers have up to 18 digits, fractions up to 17, exponents up to 2.
#pragma once

#include <string_view>

#include "grammar/regex_pool.h"

namespace edgewise::grammar {

struct JsonText {
  explicit JsonText(RegexPool& pool);

  Regex space;  // what may stand after { [ , : and before } ]: nothing, a space, or a line break and its indentation
  Regex quote;
  Regex unit;      // a character of a string in any spelling: plain, or as an escape
  Regex key_unit;  // the same in its only spelling (see json_class), for what is compared with other texts
  Regex string;
  Regex boolean;
  Regex null;
  Regex integer;
  Regex number;
  Regex scalar;  // any of those five
};

// A string of units, in quotes.
Regex quoted(RegexPool& pool, const JsonText& text, Regex content);
// `text` as a JSON string in its only spelling, quotes included.
Regex quoted_literal(RegexPool& pool, std::string_view text);

}  // namespace edgewise::grammar
