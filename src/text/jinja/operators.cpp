#include "text/jinja/operators.h"

#include <cmath>
#include <limits>

#include "text/jinja/failure.h"
#include "text/jinja/format.h"

namespace edgewise::jinja {
namespace {

const char* symbol(Operator op) {
  static constexpr const char* kSymbols[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};
  return kSymbols[static_cast<int>(op)];
}

[[noreturn]] void fail_operands(Operator op, const Value& a, const Value& b) {
  if (a.is_undefined()) fail_undefined(a);
  if (b.is_undefined()) fail_undefined(b);
  type_error("unsupported operand type(s) for {}: '{}' and '{}'", symbol(op), type_name(a), type_name(b));
}

[[noreturn]] void fail_zero_division() { throw Failure("ZeroDivisionError", "division by zero"); }

int64_t unless_overflow(bool overflow, int64_t result) {
  if (overflow) overflow_error("an integer beyond 64 bits");
  return result;
}

int64_t integer_power(int64_t base, int64_t exponent) {
  if (base == 0 || base == 1) return exponent == 0 ? 1 : base;
  if (base == -1) return exponent % 2 == 0 ? 1 : -1;
  int64_t result = 1;
  for (int64_t i = 0; i < exponent; ++i) {  // overflows after 63 turns at most
    int64_t product = 0;
    const bool overflow = __builtin_mul_overflow(result, base, &product);
    result = unless_overflow(overflow, product);
  }
  return result;
}

double float_power(double base, double exponent) {
  if (base == 0 && exponent < 0) throw Failure("ZeroDivisionError", "0.0 cannot be raised to a negative power");
  if (base < 0 && std::isfinite(base) && std::isfinite(exponent) && exponent != std::floor(exponent)) {
    value_error("a negative number to a fractional power is complex");
  }
  const double result = std::pow(base, exponent);
  if (std::isinf(result) && std::isfinite(base) && std::isfinite(exponent)) {
    overflow_error("numerical result out of range");
  }
  return result;
}

double float_modulo(double a, double b) {
  if (b == 0) fail_zero_division();
  double rest = std::fmod(a, b);
  if (rest == 0) return std::copysign(0.0, b);
  if ((b < 0) != (rest < 0)) rest += b;
  return rest;
}

double float_floor_division(double a, double b) {
  if (b == 0) fail_zero_division();
  double rest = std::fmod(a, b);
  double quotient = (a - rest) / b;
  if (rest != 0 && (b < 0) != (rest < 0)) quotient -= 1;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double down = std::floor(quotient);
  return quotient - down > 0.5 ? down + 1 : down;
}

Value apply_integers(Operator op, int64_t a, int64_t b) {
  int64_t out = 0;
  switch (op) {
    case Operator::kAdd: {
      const bool overflow = __builtin_add_overflow(a, b, &out);
      return unless_overflow(overflow, out);
    }
    case Operator::kSub: {
      const bool overflow = __builtin_sub_overflow(a, b, &out);
      return unless_overflow(overflow, out);
    }
    case Operator::kMul: {
      const bool overflow = __builtin_mul_overflow(a, b, &out);
      return unless_overflow(overflow, out);
    }
    case Operator::kDiv:
      if (b == 0) fail_zero_division();
      return static_cast<double>(static_cast<long double>(a) / static_cast<long double>(b));
    case Operator::kFloorDiv:
    case Operator::kMod: {
      if (b == 0) fail_zero_division();
      if (b == -1) return op == Operator::kMod ? Value(int64_t{0}) : apply_integers(Operator::kSub, 0, a);
      const int64_t rest = a % b;
      const bool adjust = rest != 0 && (rest < 0) != (b < 0);
      if (op == Operator::kMod) return adjust ? rest + b : rest;
      return adjust ? a / b - 1 : a / b;
    }
    case Operator::kPow:
      if (b < 0) return float_power(static_cast<double>(a), static_cast<double>(b));
      return integer_power(a, b);
  }
  return Value();
}

Value apply_floats(Operator op, double a, double b) {
  switch (op) {
    case Operator::kAdd:
      return a + b;
    case Operator::kSub:
      return a - b;
    case Operator::kMul:
      return a * b;
    case Operator::kDiv:
      if (b == 0) fail_zero_division();
      return a / b;
    case Operator::kFloorDiv:
      return float_floor_division(a, b);
    case Operator::kMod:
      return float_modulo(a, b);
    case Operator::kPow:
      return float_power(a, b);
  }
  return Value();
}

Value repeat(const Value& value, int64_t times) {
  const size_t count = times > 0 ? static_cast<size_t>(times) : 0;
  const size_t size = value.is_str() ? value.text().size() : value.items().size();
  size_t total = 0;
  if (__builtin_mul_overflow(size, count, &total)) overflow_error("a repetition too long to hold");
  if (value.is_str()) {
    Budget::check_text(total);
    std::string text;
    text.reserve(total);
    for (size_t i = 0; i < count && size > 0; ++i) text += value.text();
    return make_str(std::move(text), value.is_markup());
  }
  Budget::check_items(total);
  Budget::step(static_cast<int64_t>(total));
  std::vector<Value> items;
  items.reserve(total);
  for (size_t i = 0; i < count && size > 0; ++i) {
    items.insert(items.end(), value.items().begin(), value.items().end());
  }
  return value.is(Kind::kList) ? make_list(std::move(items)) : make_tuple(std::move(items));
}

Value concatenate(const Value& a, const Value& b) {
  if (a.is_str()) {
    const bool markup = a.is_markup() || b.is_markup();
    const Value left = markup ? escape(a) : a;
    const Value right = markup ? escape(b) : b;
    Budget::check_text(left.text().size() + right.text().size());
    return make_str(left.text() + right.text(), markup);
  }
  std::vector<Value> items = a.items();
  items.insert(items.end(), b.items().begin(), b.items().end());
  Budget::step(static_cast<int64_t>(items.size()));
  return a.is(Kind::kList) ? make_list(std::move(items)) : make_tuple(std::move(items));
}

// The three-way order of sequences and scalars; nullopt when a NaN stands in the way.
std::optional<int> order(const Value& a, const Value& b, const char* symbol) {
  Budget::step();
  Budget::check_stack();
  if (a.is_undefined()) fail_undefined(a);
  if (b.is_undefined()) fail_undefined(b);
  if (a.is_number() && b.is_number()) {
    const auto wide = [](const Value& x) {  // holds every int64 and every double
      return x.is(Kind::kFloat) ? static_cast<long double>(x.number()) : static_cast<long double>(x.integer());
    };
    const long double x = wide(a);
    const long double y = wide(b);
    if (std::isnan(x) || std::isnan(y)) return std::nullopt;
    return x < y ? -1 : x > y ? 1 : 0;
  }
  if (a.is_str() && b.is_str()) {
    const int result = a.text().compare(b.text());  // UTF-8 sorts as code points do
    return result < 0 ? -1 : result > 0 ? 1 : 0;
  }
  if (a.is_sequence() && a.kind() == b.kind()) {
    const auto& left = a.items();
    const auto& right = b.items();
    for (size_t i = 0; i < std::min(left.size(), right.size()); ++i) {
      if (!equals(left[i], right[i])) return order(left[i], right[i], symbol);
    }
    return left.size() < right.size() ? -1 : left.size() > right.size() ? 1 : 0;
  }
  type_error("'{}' not supported between instances of '{}' and '{}'", symbol, type_name(a), type_name(b));
}

bool equal_dicts(const DictData& a, const DictData& b) {
  if (a.items.size() != b.items.size()) return false;
  for (const auto& [key, value] : a.items) {
    const Value* other = b.find(key);
    if (other == nullptr || !equals(value, *other)) return false;
  }
  return true;
}

}  // namespace

Value apply(Operator op, const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) return apply_integers(op, a.integer(), b.integer());
  if (a.is_number() && b.is_number()) return apply_floats(op, a.number(), b.number());
  if (op == Operator::kAdd && (a.is_str() || a.is_sequence()) && a.kind() == b.kind()) return concatenate(a, b);
  if (op == Operator::kMul) {
    if ((a.is_str() || a.is_sequence()) && b.is_integral()) return repeat(a, b.integer());
    if ((b.is_str() || b.is_sequence()) && a.is_integral()) return repeat(b, a.integer());
  }
  if (op == Operator::kMod && a.is_str()) return format_percent(a, b);
  fail_operands(op, a, b);
}

Value negate(const Value& value) {
  if (value.is_integral()) return apply_integers(Operator::kSub, 0, value.integer());
  if (value.is(Kind::kFloat)) return -value.number();
  if (value.is_undefined()) fail_undefined(value);
  type_error("bad operand type for unary -: '{}'", type_name(value));
}

Value unary_plus(const Value& value) {
  if (value.is_integral()) return value.integer();
  if (value.is(Kind::kFloat)) return value;
  if (value.is_undefined()) fail_undefined(value);
  type_error("bad operand type for unary +: '{}'", type_name(value));
}

bool equals(const Value& a, const Value& b) {
  Budget::step();
  if (a.is_number() && b.is_number()) return order(a, b, "==") == 0;
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kStr:
      return a.text() == b.text();
    case Kind::kList:
    case Kind::kTuple: {
      if (a.sequence() == b.sequence()) return true;
      if (a.items().size() != b.items().size()) return false;
      Budget::check_stack();
      for (size_t i = 0; i < a.items().size(); ++i) {
        if (!equals(a.items()[i], b.items()[i])) return false;
      }
      return true;
    }
    case Kind::kDict:
      Budget::check_stack();
      return a.dict_ptr() == b.dict_ptr() || equal_dicts(a.dict(), b.dict());
    default:
      return a.object()->equals(*b.object());
  }
}

bool same_as(const Value& a, const Value& b) {
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kList:
    case Kind::kTuple:
      return a.sequence() == b.sequence() || (a.is(Kind::kTuple) && a.items().empty() && b.items().empty());
    case Kind::kDict:
      return a.dict_ptr() == b.dict_ptr();
    case Kind::kUndefined:
      return &a.undefined() == &b.undefined();
    case Kind::kObject:
      return a.object() == b.object();
    default:
      return equals(a, b);
  }
}

bool less(const Value& a, const Value& b) { return order(a, b, "<") == -1; }

bool compare(Comparison comparison, const Value& a, const Value& b) {
  switch (comparison) {
    case Comparison::kEq:
      return equals(a, b);
    case Comparison::kNe:
      return !equals(a, b);
    case Comparison::kIn:
      return contains(b, a);
    case Comparison::kNotIn:
      return !contains(b, a);
    case Comparison::kLt:
      return order(a, b, "<") == -1;
    case Comparison::kGt:
      return order(a, b, ">") == 1;
    case Comparison::kLe:
      return order(a, b, "<=").value_or(1) <= 0;
    case Comparison::kGe:
      return order(a, b, ">=").value_or(-1) >= 0;
  }
  return false;
}

bool contains(const Value& container, const Value& item) {
  if (container.is_str()) {
    if (!item.is_str()) {
      type_error("'in <string>' requires string as left operand, not {}", type_name(item));
    }
    Budget::step(static_cast<int64_t>(container.text().size() / 64));
    return container.text().find(item.text()) != std::string::npos;
  }
  if (container.is(Kind::kDict)) return container.dict().find(item) != nullptr;
  if (!is_iterable(container)) type_error("argument of type '{}' is not iterable", type_name(container));
  const Next next = iterate(container);
  for (Value value; next(value);) {
    if (equals(value, item)) return true;
  }
  return false;
}

size_t hash_of(const Value& value) {
  Budget::step();
  switch (value.kind()) {
    case Kind::kStr:
      return std::hash<std::string_view>{}(value.text());
    case Kind::kBool:
    case Kind::kInt:
      return std::hash<int64_t>{}(value.integer());
    case Kind::kFloat: {
      const double number = value.number();
      const bool integral = number == std::floor(number) && std::fabs(number) < 9.2e18;
      return integral ? std::hash<int64_t>{}(static_cast<int64_t>(number)) : std::hash<double>{}(number);
    }
    case Kind::kTuple: {
      Budget::check_stack();
      size_t hash = 0x9E3779B9;
      for (const Value& item : value.items()) hash = hash * 1000003 ^ hash_of(item);
      return hash;
    }
    case Kind::kObject:
      return std::hash<std::string>{}(value.object()->type_name());  // equal objects have one type
    case Kind::kList:
    case Kind::kDict:
      type_error("unhashable type: '{}'", type_name(value));
    default:
      return 0;
  }
}

}  // namespace edgewise::jinja
