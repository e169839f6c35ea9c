#include "grammar/json_text.h"

#include <string>

#include "grammar/code_points.h"
#include "grammar/pattern_parser.h"

namespace edgewise::grammar {
namespace {

// \uXXXX: a character, or a pair of surrogates; never half a pair, which is no text.
Regex any_escape(RegexPool& pool) {
  return parse_pattern(pool,
                       R"(\\(["\\/bfnrt]|u([0-9A-CEFa-cef][0-9A-Fa-f]{3}|[dD][0-7][0-9A-Fa-f]{2})"
                       R"(|[dD][89ABab][0-9A-Fa-f]{2}\\u[dD][C-Fc-f][0-9A-Fa-f]{2})))",
                       utf8_class, PatternScope::kWhole);
}

}  // namespace

JsonText::JsonText(RegexPool& pool) {
  const auto regex = [&](std::string_view text) { return parse_pattern(pool, text, utf8_class, PatternScope::kWhole); };
  space = regex(R"(( |\n {0,40}|\n\t{1,20})?)");
  quote = regex("\"");
  const CodePoints plain{{0x20, '"' - 1}, {'"' + 1, '\\' - 1}, {'\\' + 1, kLastCodePoint}};
  unit = pool.either({utf8_class(pool, plain), any_escape(pool)});
  key_unit = json_class(pool, CodePoints::all());
  string = quoted(pool, *this, pool.star(unit));
  boolean = regex("true|false");
  null = regex("null");
  integer = regex("0|-?[1-9][0-9]{0,17}");
  number = regex(R"(-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,2})?)");
  scalar = pool.either({string, boolean, null, number});
}

Regex quoted(RegexPool& pool, const JsonText& text, Regex content) {
  return pool.concat({text.quote, content, text.quote});
}

Regex quoted_literal(RegexPool& pool, std::string_view text) { return pool.literal("\"" + json_spelling(text) + "\""); }

}  // namespace edgewise::grammar
