// Expressions.
#include "text/jinja/failure.h"
#include "text/jinja/filters.h"
#include "text/jinja/renderer.h"

namespace edgewise::jinja {

Value Renderer::evaluate_in(const Expr& expr, const ScopePtr& scope) {
  const ScopePtr outer = std::exchange(scope_, scope);
  Value value;
  try {
    value = evaluate(expr);
  } catch (...) {
    scope_ = outer;
    throw;
  }
  scope_ = outer;
  return value;
}

Value Renderer::evaluate(const Expr& expr) {
  Budget::step();
  Budget::check_stack();
  const int outer_line = line_;
  line_ = expr.line;
  Value value = evaluate_kind(expr);
  line_ = outer_line;  // not on failure: there it tells where
  return value;
}

Value Renderer::evaluate_kind(const Expr& expr) {
  const auto child = [&](size_t i) { return evaluate(*expr.children[i]); };
  switch (expr.kind) {
    case ExprKind::kConstant:
      return expr.constant;
    case ExprKind::kName:
      return evaluate_name(expr.name);
    case ExprKind::kBlockText:
      return block_text_;
    case ExprKind::kList:
      return make_list(evaluate_all(expr.children));
    case ExprKind::kTuple:
      return make_tuple(evaluate_all(expr.children));
    case ExprKind::kDict:
      return evaluate_dict(expr);
    case ExprKind::kAttribute:
      return get_attribute(child(0), expr.name);
    case ExprKind::kItem: {
      const Value object = child(0);
      return get_item(object, child(1));
    }
    case ExprKind::kSlice: {
      const Value object = child(0);
      const Value start = evaluate_or_none(expr.children[1]);
      const Value stop = evaluate_or_none(expr.children[2]);
      return get_slice(object, start, stop, evaluate_or_none(expr.children[3]));
    }
    case ExprKind::kCall: {
      const Value function = child(0);
      return call(function, evaluate_arguments(expr));
    }
    case ExprKind::kFilter: {
      const Value subject = child(0);
      return apply_filter(expr.name, subject, evaluate_arguments(expr));
    }
    case ExprKind::kTest: {
      const Value subject = child(0);
      return apply_test(expr.name, subject, evaluate_arguments(expr));
    }
    case ExprKind::kBinary: {
      const Value left = child(0);
      return apply(expr.op, left, child(1));
    }
    case ExprKind::kNegate:
      return negate(child(0));
    case ExprKind::kPlus:
      return unary_plus(child(0));
    case ExprKind::kNot:
      return !truthy(child(0));
    case ExprKind::kAnd: {
      Value left = child(0);
      return truthy(left) ? child(1) : left;
    }
    case ExprKind::kOr: {
      Value left = child(0);
      return truthy(left) ? left : child(1);
    }
    case ExprKind::kConcat:
      return evaluate_concat(expr);
    case ExprKind::kCompare:
      return evaluate_compare(expr);
    case ExprKind::kCondition:
      return evaluate_condition(expr);
    case ExprKind::kNamespaceTarget:
      break;
  }
  runtime_error("an assignment target where a value was expected");
}

Value Renderer::evaluate_name(const std::string& name) const {
  for (const Scope* scope = scope_.get(); scope != nullptr; scope = scope->parent.get()) {
    if (const Value* value = scope->find(name)) return *value;
  }
  const auto found = context_.find(name);
  return found != context_.end() ? found->second : make_undefined(string_literal(name) + " is undefined");
}

Value Renderer::evaluate_condition(const Expr& expr) {
  if (truthy(evaluate(*expr.children[0]))) return evaluate(*expr.children[1]);
  if (expr.children[2]) return evaluate(*expr.children[2]);
  return make_undefined(fmt::format(
      "the inline if-expression on line {} evaluated to false and no else section was defined.", expr.line));
}

Value Renderer::evaluate_compare(const Expr& expr) {
  Value left = evaluate(*expr.children[0]);
  for (size_t i = 0; i < expr.comparisons.size(); ++i) {
    Value right = evaluate(*expr.children[i + 1]);
    if (!compare(expr.comparisons[i], left, right)) return false;
    left = std::move(right);
  }
  return true;
}

Value Renderer::evaluate_concat(const Expr& expr) {
  std::string text;
  for (const ExprPtr& child : expr.children) {
    text += to_text(evaluate(*child));
    Budget::check_text(text.size());
  }
  return make_str(std::move(text));
}

Value Renderer::evaluate_dict(const Expr& expr) {
  std::vector<std::pair<Value, Value>> items;
  for (size_t i = 0; i + 1 < expr.children.size(); i += 2) {
    Value key = evaluate(*expr.children[i]);
    Value value = evaluate(*expr.children[i + 1]);
    items.emplace_back(std::move(key), std::move(value));
  }
  return make_dict(std::move(items));
}

std::vector<Value> Renderer::evaluate_all(const std::vector<ExprPtr>& exprs, size_t from) {
  std::vector<Value> values;
  values.reserve(exprs.size() - from);
  for (size_t i = from; i < exprs.size(); ++i) values.push_back(evaluate(*exprs[i]));
  return values;
}

Args Renderer::evaluate_arguments(const Expr& expr) {
  Args args{evaluate_all(expr.children, 1), {}};
  if (expr.star) {
    for (Value& value : to_vector(evaluate(*expr.star))) args.positional.push_back(std::move(value));
  }
  for (const auto& [name, value] : expr.named) args.named.emplace_back(name, evaluate(*value));
  if (!expr.double_star) return args;
  const Value more = evaluate(*expr.double_star);
  if (!more.is(Kind::kDict)) type_error("argument after ** must be a mapping, not {}", type_name(more));
  for (const auto& [key, value] : more.dict().items) {
    if (!key.is_str()) type_error("keywords must be strings");
    for (const auto& [known, ignored] : args.named) {
      if (known == key.text()) type_error("got multiple values for keyword argument '{}'", known);
    }
    args.named.emplace_back(key.text(), value);
  }
  return args;
}

}  // namespace edgewise::jinja
