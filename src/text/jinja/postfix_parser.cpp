// What may stand behind a value: subscripts, calls, filters and tests.
#include "text/jinja/parser_base.h"

namespace edgewise::jinja {

ExprPtr ExpressionParser::postfix(ExprPtr node) {
  while (true) {
    if (current().is_operator(".") || current().is_operator("[")) {
      node = subscript(std::move(node));
    } else if (current().is_operator("(")) {
      node = call(std::move(node));
    } else {
      return node;
    }
  }
}

ExprPtr ExpressionParser::filters_and_tests(ExprPtr node) {
  while (true) {
    if (current().is_operator("|")) {
      node = filter_chain(std::move(node), false);
    } else if (current().is_name("is")) {
      node = test(std::move(node));
    } else if (current().is_operator("(")) {
      node = call(std::move(node));
    } else {
      return node;
    }
  }
}

ExprPtr ExpressionParser::subscript(ExprPtr node) {
  const Token& open = advance();
  if (open.text == "[") return slice_or_item(std::move(node), open.line);
  const Token& name = advance();
  ExprPtr out = make(ExprKind::kAttribute, open.line);
  out->children.push_back(std::move(node));
  if (name.kind == TokenKind::kName) {
    out->name = name.text;
  } else if (name.kind == TokenKind::kInteger && name.text.size() < 18) {
    out->kind = ExprKind::kItem;
    ExprPtr index = make(ExprKind::kConstant, name.line);
    index->constant = static_cast<int64_t>(std::stoll(name.text, nullptr, 0));
    out->children.push_back(std::move(index));
  } else {
    fail(name, "expected a name or number behind '.', found " + describe(name));
  }
  return finish(std::move(out));
}

ExprPtr ExpressionParser::slice_or_item(ExprPtr node, int line) {
  ExprPtr out = make(ExprKind::kItem, line);
  out->children.push_back(std::move(node));
  const auto ends = [&] { return current().is_operator("]") || current().is_operator(":"); };
  ExprPtr start = ends() ? nullptr : expression();
  if (current().is_operator(":")) {
    out->kind = ExprKind::kSlice;
    out->children.push_back(std::move(start));
    for (int i = 0; i < 2; ++i) out->children.push_back(skip_operator(":") && !ends() ? expression() : nullptr);
  } else if (current().is_operator(",") || !start) {
    ExprPtr key = make(ExprKind::kTuple, line);
    if (start) key->children.push_back(std::move(start));
    while (!current().is_operator("]")) {
      expect_operator(",");
      key->children.push_back(expression());
    }
    out->children.push_back(finish(std::move(key)));
  } else {
    out->children.push_back(std::move(start));
  }
  expect_operator("]");
  return finish(std::move(out));
}

ExprPtr ExpressionParser::call(ExprPtr function) {
  ExprPtr node = make(ExprKind::kCall, current().line);
  node->children.push_back(std::move(function));
  call_arguments(*node);
  return finish(std::move(node));
}

void ExpressionParser::call_arguments(Expr& node) {
  const Nested nested(*this);
  const Token& open = expect_operator("(");
  const auto ensure = [&](bool condition) {
    if (!condition) fail(open, "invalid arguments: positional ones come first, then named ones, then * and **");
  };
  bool any = false;
  bool named = false;
  while (!current().is_operator(")")) {
    if (std::exchange(any, true)) {
      expect_operator(",");
      if (current().is_operator(")")) break;
    }
    if (skip_operator("*")) {
      ensure(!node.star && !node.double_star);
      node.star = expression();
    } else if (skip_operator("**")) {
      ensure(!node.double_star);
      node.double_star = expression();
    } else if (current().kind == TokenKind::kName && look().is_operator("=")) {
      ensure(!node.double_star);
      const std::string name = advance().text;
      advance();
      for (const auto& [known, value] : node.named) {
        if (known == name) fail(current(), fmt::format("the argument '{}' is given twice", name));
      }
      node.named.emplace_back(name, expression());
      named = true;
    } else {
      ensure(!node.star && !node.double_star && !named);
      node.children.push_back(expression());
    }
  }
  expect_operator(")");
}

std::string ExpressionParser::dotted_name() {
  std::string name = expect_name().text;
  while (skip_operator(".")) name += "." + expect_name().text;
  return name;
}

ExprPtr ExpressionParser::filter_chain(ExprPtr subject, bool starts_inline) {
  while (current().is_operator("|") || starts_inline) {
    if (!std::exchange(starts_inline, false)) advance();
    ExprPtr node = make(ExprKind::kFilter, current().line);
    node->name = dotted_name();
    node->children.push_back(std::move(subject));
    if (current().is_operator("(")) call_arguments(*node);
    subject = finish(std::move(node));
  }
  return subject;
}

ExprPtr ExpressionParser::test(ExprPtr subject) {
  const int line = advance().line;
  const bool negated = skip_name("not");
  ExprPtr node = make(ExprKind::kTest, line);
  node->name = dotted_name();
  node->children.push_back(std::move(subject));
  const Token& next = current();
  const bool value_follows = next.kind == TokenKind::kName || next.kind == TokenKind::kString ||
                             next.kind == TokenKind::kInteger || next.kind == TokenKind::kFloat ||
                             next.is_operator("[") || next.is_operator("{");
  if (next.is_operator("(")) {
    call_arguments(*node);
  } else if (value_follows && !next.is_name("else") && !next.is_name("or") && !next.is_name("and")) {
    if (next.is_name("is")) fail(next, "tests with 'is' can't be chained");
    node->children.push_back(postfix(primary(false)));
  }
  node = finish(std::move(node));
  if (!negated) return node;
  ExprPtr inverted = make(ExprKind::kNot, line);
  inverted->children.push_back(std::move(node));
  return finish(std::move(inverted));
}

}  // namespace edgewise::jinja
