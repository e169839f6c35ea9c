// Template text -> tokens, with jinja2's rules for white space (trim_blocks and lstrip_blocks on).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace edgewise::jinja {

enum class TokenKind {
  kData,
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,  // text holds which
  kEnd,
};

struct Token {
  TokenKind kind;
  int line;
  std::string text;  // data, name, unescaped string, digits without underscores, or the operator
  bool is(TokenKind k, std::string_view t) const { return kind == k && text == t; }
  bool is_name(std::string_view t) const { return is(TokenKind::kName, t); }
  bool is_operator(std::string_view t) const { return is(TokenKind::kOperator, t); }
};

// For error messages: what stands there, in words.
std::string describe(const Token& token);

// Ends with a kEnd token. Throws Error(kBadFile) as "name:line: ...".
std::vector<Token> tokenize(std::string_view source, const std::string& name);
// The value of a string literal's inside.
std::string unescape(std::string_view text, const std::string& name, int line);

}  // namespace edgewise::jinja
