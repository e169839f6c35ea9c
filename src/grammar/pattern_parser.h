// Regular expressions as text (the common part of ECMAScript's): classes, \d \w \s, groups, |, * + ? {m,n}, and the
// anchors ^ and $ at the ends. Without captures there is nothing greedy or lazy; *? means *. Lookaround,
// backreferences, \b and \p are refused with their position.
#pragma once

#include <string_view>

#include "grammar/code_points.h"
#include "grammar/regex_pool.h"

namespace edgewise::grammar {

// One character of a set, as the text to be constrained writes it: utf8_class or json_class.
using CharEncoder = Regex (*)(RegexPool&, const CodePoints&);

enum class PatternScope {
  kWhole,   // the expression describes the whole text; anchors say so again
  kSearch,  // the text has a match somewhere, as JSON Schema's "pattern" wants; anchors bind it to the ends
};

// Throws Error(kUsage): "position 12: lookahead is not supported".
Regex parse_pattern(RegexPool& pool, std::string_view text, CharEncoder encode, PatternScope scope);

// A class "[...]" of well-formed `text` that begins at `pos`, which moves behind it; grammar files have the same
// classes.
CodePoints parse_bracket_class(RegexPool& pool, std::string_view text, size_t& pos);

}  // namespace edgewise::grammar
