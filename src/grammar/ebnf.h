// Grammar text in the style of GBNF, with what Lark writes differently:
//
//   # a comment, to the end of the line (// too)
//   root   ::= "{" pair ("," pair)* "}"      ::= or : or =; the start is "root" or "start"
//   pair   ::= [a-z]+ ":" (number | 'text')  strings with \n \r \t \" \\ \xHH \uHHHH
//   number ::= /-?\d+/ | [^abc] | .          regular expressions, classes, any character
//   list   ::= list "," number | number      left recursion is fine
//
// with * + ? {m} {m,} {m,n} behind an item. There is no whitespace that the rules do not mention.
#pragma once

#include <string_view>

#include "grammar/graph.h"
#include "grammar/regex_pool.h"

namespace edgewise::grammar {

// Throws Error(kUsage): "3:14: there is no rule \"pair\"" (line:column, in bytes).
Graph parse_ebnf(RegexPool& pool, std::string_view text);

}  // namespace edgewise::grammar
