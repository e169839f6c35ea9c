#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "text/jinja/parser_base.h"

namespace edgewise::jinja {

bool ExpressionParser::skip_name(std::string_view text) {
  if (!current().is_name(text)) return false;
  advance();
  return true;
}

bool ExpressionParser::skip_operator(std::string_view text) {
  if (!current().is_operator(text)) return false;
  advance();
  return true;
}

const Token& ExpressionParser::expect_operator(std::string_view text) {
  if (!current().is_operator(text)) fail(current(), fmt::format("expected '{}', found {}", text, describe(current())));
  return advance();
}

const Token& ExpressionParser::expect_name() {
  if (current().kind != TokenKind::kName) fail(current(), "expected a name, found " + describe(current()));
  return advance();
}

void ExpressionParser::expect_keyword(std::string_view text) {
  if (!skip_name(text)) fail(current(), fmt::format("expected '{}', found {}", text, describe(current())));
}

int ExpressionParser::loads_of(const std::string& name) const {
  const auto found = loads_.find(name);
  return found == loads_.end() ? 0 : found->second;
}

ExprPtr ExpressionParser::finish(ExprPtr node) const {
  int below = 0;
  const auto count = [&](const ExprPtr& child) {
    if (child) below = std::max(below, child->depth);
  };
  for (const ExprPtr& child : node->children) count(child);
  for (const auto& [name, child] : node->named) count(child);
  count(node->star);
  count(node->double_star);
  node->depth = below + 1;
  if (node->depth > kMaxExprDepth) {
    bad_file("{}:{}: an expression nested deeper than {} levels", name_, node->line, kMaxExprDepth);
  }
  return node;
}

ExprPtr ExpressionParser::binary(ExprKind kind, ExprPtr left, ExprPtr right, int line) const {
  ExprPtr node = make(kind, line);
  node->children.push_back(std::move(left));
  node->children.push_back(std::move(right));
  return finish(std::move(node));
}

ExprPtr ExpressionParser::condition() {
  const Nested nested(*this);
  const int line = current().line;
  ExprPtr value = disjunction();
  while (skip_name("if")) {
    ExprPtr node = make(ExprKind::kCondition, line);
    node->children.push_back(disjunction());
    node->children.push_back(std::move(value));
    node->children.push_back(skip_name("else") ? condition() : nullptr);
    value = finish(std::move(node));
  }
  return value;
}

ExprPtr ExpressionParser::disjunction() {
  const int line = current().line;
  ExprPtr left = conjunction();
  while (skip_name("or")) {
    ExprPtr right = conjunction();
    left = binary(ExprKind::kOr, std::move(left), std::move(right), line);
  }
  return left;
}

ExprPtr ExpressionParser::conjunction() {
  const int line = current().line;
  ExprPtr left = negation();
  while (skip_name("and")) {
    ExprPtr right = negation();
    left = binary(ExprKind::kAnd, std::move(left), std::move(right), line);
  }
  return left;
}

ExprPtr ExpressionParser::negation() {
  if (!current().is_name("not")) return comparison();
  const Nested nested(*this);
  ExprPtr node = make(ExprKind::kNot, advance().line);
  node->children.push_back(negation());
  return finish(std::move(node));
}

ExprPtr ExpressionParser::comparison() {
  static constexpr std::pair<std::string_view, Comparison> kComparisons[] = {
      {"==", Comparison::kEq}, {"!=", Comparison::kNe}, {"<", Comparison::kLt},
      {"<=", Comparison::kLe}, {">", Comparison::kGt},  {">=", Comparison::kGe}};
  const int line = current().line;
  ExprPtr first = addition();
  ExprPtr node;
  const auto add = [&](Comparison which, int tokens) {
    for (int i = 0; i < tokens; ++i) advance();
    if (!node) {
      node = make(ExprKind::kCompare, line);
      node->children.push_back(std::move(first));
    }
    node->comparisons.push_back(which);
    node->children.push_back(addition());
    return true;
  };
  for (bool more = true; more;) {
    more = false;
    for (const auto& [symbol, which] : kComparisons) {
      if (current().is_operator(symbol)) {
        more = add(which, 1);
        break;
      }
    }
    if (!more && current().is_name("in")) more = add(Comparison::kIn, 1);
    if (!more && current().is_name("not") && look().is_name("in")) more = add(Comparison::kNotIn, 2);
  }
  return node ? finish(std::move(node)) : std::move(first);
}

ExprPtr ExpressionParser::addition() {
  const int line = current().line;
  ExprPtr left = concatenation();
  while (current().is_operator("+") || current().is_operator("-")) {
    const Operator op = advance().text == "+" ? Operator::kAdd : Operator::kSub;
    ExprPtr right = concatenation();
    left = binary(ExprKind::kBinary, std::move(left), std::move(right), line);
    left->op = op;
  }
  return left;
}

ExprPtr ExpressionParser::concatenation() {
  const int line = current().line;
  ExprPtr first = multiplication();
  if (!current().is_operator("~")) return first;
  ExprPtr node = make(ExprKind::kConcat, line);
  node->children.push_back(std::move(first));
  while (skip_operator("~")) node->children.push_back(multiplication());
  return finish(std::move(node));
}

ExprPtr ExpressionParser::multiplication() {
  static constexpr std::pair<std::string_view, Operator> kOperators[] = {
      {"*", Operator::kMul}, {"/", Operator::kDiv}, {"//", Operator::kFloorDiv}, {"%", Operator::kMod}};
  const int line = current().line;
  ExprPtr left = power();
  while (true) {
    const auto* found = std::find_if(std::begin(kOperators), std::end(kOperators),
                                     [&](const auto& entry) { return current().is_operator(entry.first); });
    if (found == std::end(kOperators)) return left;
    advance();
    ExprPtr right = power();
    left = binary(ExprKind::kBinary, std::move(left), std::move(right), line);
    left->op = found->second;
  }
}

ExprPtr ExpressionParser::power() {
  const int line = current().line;
  ExprPtr left = unary(true);
  while (skip_operator("**")) {
    ExprPtr right = unary(true);
    left = binary(ExprKind::kBinary, std::move(left), std::move(right), line);
    left->op = Operator::kPow;
  }
  return left;
}

ExprPtr ExpressionParser::unary(bool with_filters) {
  ExprPtr node;
  if (current().is_operator("-") || current().is_operator("+")) {
    const Nested nested(*this);
    const Token& sign = advance();
    node = make(sign.text == "-" ? ExprKind::kNegate : ExprKind::kPlus, sign.line);
    node->children.push_back(unary(false));
    node = finish(std::move(node));
  } else {
    node = primary(false);
  }
  node = postfix(std::move(node));
  return with_filters ? filters_and_tests(std::move(node)) : std::move(node);
}

ExprPtr ExpressionParser::primary(bool namespaces) {
  const Nested nested(*this);
  const Token& token = current();
  ExprPtr node = make(ExprKind::kConstant, token.line);
  if (token.kind == TokenKind::kName) {
    advance();
    if (token.text == "true" || token.text == "True" || token.text == "false" || token.text == "False") {
      node->constant = token.text == "true" || token.text == "True";
    } else if (token.text == "none" || token.text == "None") {
      node->constant = Value();
    } else if (namespaces && skip_operator(".")) {
      node->kind = ExprKind::kNamespaceTarget;
      node->owner = token.text;
      node->name = expect_name().text;
    } else {
      node->kind = ExprKind::kName;
      node->name = token.text;
      ++loads_[token.text];
    }
    return node;
  }
  if (token.kind == TokenKind::kString) {
    std::string text;
    while (current().kind == TokenKind::kString) text += advance().text;
    node->constant = make_str(std::move(text));
    return node;
  }
  if (token.kind == TokenKind::kInteger || token.kind == TokenKind::kFloat) return number();
  if (token.is_operator("(")) {
    advance();
    TupleOptions options;
    options.parentheses = true;
    node = tuple(options);
    expect_operator(")");
    return node;
  }
  if (token.is_operator("[")) return list();
  if (token.is_operator("{")) return dict();
  fail(token, "expected an expression, found " + describe(token));
}

ExprPtr ExpressionParser::number() {
  const Token& token = advance();
  ExprPtr node = make(ExprKind::kConstant, token.line);
  if (token.kind == TokenKind::kFloat) {
    node->constant = std::strtod(token.text.c_str(), nullptr);
    return node;
  }
  const std::string& text = token.text;
  const char letter = text.size() > 1 ? static_cast<char>(text[1] | 0x20) : ' ';
  const int base = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 10;
  int64_t value = 0;
  const char* first = text.data() + (base == 10 ? 0 : 2);
  const auto result = std::from_chars(first, text.data() + text.size(), value, base);
  if (result.ec != std::errc()) fail(token, fmt::format("the integer {} is beyond 64 bits", text));
  node->constant = value;
  return node;
}

bool ExpressionParser::at_tuple_end(const TupleOptions& options) const {
  const Token& token = current();
  return token.kind == TokenKind::kVariableEnd || token.kind == TokenKind::kBlockEnd || token.is_operator(")") ||
         (!options.end_name.empty() && token.is_name(options.end_name));
}

ExprPtr ExpressionParser::tuple(const TupleOptions& options) {
  std::vector<ExprPtr> items;
  const int line = current().line;
  bool is_tuple = false;
  while (true) {
    if (!items.empty()) expect_operator(",");
    if (at_tuple_end(options)) break;
    items.push_back(options.simple ? primary(options.namespaces) : expression(options.conditions));
    if (!current().is_operator(",")) break;
    is_tuple = true;
  }
  if (!is_tuple) {
    if (!items.empty()) return std::move(items[0]);
    if (!options.parentheses) fail(current(), "expected an expression, found " + describe(current()));
  }
  ExprPtr node = make(ExprKind::kTuple, line);
  node->children = std::move(items);
  return finish(std::move(node));
}

ExprPtr ExpressionParser::list() {
  ExprPtr node = make(ExprKind::kList, expect_operator("[").line);
  while (!current().is_operator("]")) {
    if (!node->children.empty()) expect_operator(",");
    if (current().is_operator("]")) break;
    node->children.push_back(expression());
  }
  expect_operator("]");
  return finish(std::move(node));
}

ExprPtr ExpressionParser::dict() {
  ExprPtr node = make(ExprKind::kDict, expect_operator("{").line);
  while (!current().is_operator("}")) {
    if (!node->children.empty()) expect_operator(",");
    if (current().is_operator("}")) break;
    node->children.push_back(expression());
    expect_operator(":");
    node->children.push_back(expression());
  }
  expect_operator("}");
  return finish(std::move(node));
}

}  // namespace edgewise::jinja
