// The tests behind `is`.
#include <cmath>

#include "text/jinja/failure.h"
#include "text/jinja/filters.h"
#include "text/jinja/methods.h"
#include "text/jinja/operators.h"

namespace edgewise::jinja {
namespace {

struct NamedTest {
  std::string_view name;
  Test test;
};

void no_arguments(const Args& args) { Signature("test", args, {}, 0); }

template <bool (*Check)(const Value&)>
bool simple(const Value& value, const Args& args) {
  no_arguments(args);
  return Check(value);
}

template <Kind kind>
bool has_kind(const Value& value) {
  return value.is(kind);
}

bool is_defined(const Value& value) { return !value.is_undefined(); }
bool is_true(const Value& value) { return value.is(Kind::kBool) && value.boolean(); }
bool is_false(const Value& value) { return value.is(Kind::kBool) && !value.boolean(); }
bool is_number(const Value& value) { return value.is_number(); }
bool is_callable_or_undefined(const Value& value) { return value.is_undefined() || is_callable(value); }
bool is_escaped(const Value& value) { return value.is_markup(); }

bool is_sequence(const Value& value) {
  if (value.is(Kind::kObject)) return value.object()->is_sequence();
  return value.is_undefined() || value.is_str() || value.is_sequence() || value.is(Kind::kDict);
}

bool remainder_is(const Value& value, const Value& divisor, int64_t wanted) {
  return equals(apply(Operator::kMod, value, divisor), Value(wanted));
}
bool is_odd(const Value& value) { return remainder_is(value, Value(int64_t{2}), 1); }
bool is_even(const Value& value) { return remainder_is(value, Value(int64_t{2}), 0); }

bool is_divisible(const Value& value, const Args& args) {
  const Signature given("divisibleby", args, {"num"}, 1);
  return remainder_is(value, *given[0], 0);
}

template <Comparison comparison>
bool compares(const Value& value, const Args& args) {
  const Signature given("comparison", args, {"b"}, 1, 1);
  return compare(comparison, value, *given[0]);
}

bool is_in(const Value& value, const Args& args) {
  const Signature given("in", args, {"seq"}, 1);
  return contains(*given[0], value);
}

bool is_same(const Value& value, const Args& args) {
  const Signature given("sameas", args, {"other"}, 1);
  return same_as(value, *given[0]);
}

bool is_lower_text(const Value& value) { return find_string_method("islower")(make_str(to_text(value)), {}).boolean(); }
bool is_upper_text(const Value& value) { return find_string_method("isupper")(make_str(to_text(value)), {}).boolean(); }

bool is_filter(const Value& value) { return value.is_str() && find_filter(value.text()) != nullptr; }
bool is_test(const Value& value) { return value.is_str() && find_test(value.text()) != nullptr; }

constexpr NamedTest kTests[] = {
    {"defined", simple<is_defined>},
    {"undefined", simple<has_kind<Kind::kUndefined>>},
    {"none", simple<has_kind<Kind::kNone>>},
    {"boolean", simple<has_kind<Kind::kBool>>},
    {"true", simple<is_true>},
    {"false", simple<is_false>},
    {"integer", simple<has_kind<Kind::kInt>>},
    {"float", simple<has_kind<Kind::kFloat>>},
    {"number", simple<is_number>},
    {"string", simple<has_kind<Kind::kStr>>},
    {"mapping", simple<has_kind<Kind::kDict>>},
    {"sequence", simple<is_sequence>},
    {"iterable", simple<is_iterable>},
    {"callable", simple<is_callable_or_undefined>},
    {"escaped", simple<is_escaped>},
    {"odd", simple<is_odd>},
    {"even", simple<is_even>},
    {"divisibleby", is_divisible},
    {"lower", simple<is_lower_text>},
    {"upper", simple<is_upper_text>},
    {"filter", simple<is_filter>},
    {"test", simple<is_test>},
    {"sameas", is_same},
    {"in", is_in},
    {"==", compares<Comparison::kEq>},
    {"eq", compares<Comparison::kEq>},
    {"equalto", compares<Comparison::kEq>},
    {"!=", compares<Comparison::kNe>},
    {"ne", compares<Comparison::kNe>},
    {">", compares<Comparison::kGt>},
    {"gt", compares<Comparison::kGt>},
    {"greaterthan", compares<Comparison::kGt>},
    {">=", compares<Comparison::kGe>},
    {"ge", compares<Comparison::kGe>},
    {"<", compares<Comparison::kLt>},
    {"lt", compares<Comparison::kLt>},
    {"lessthan", compares<Comparison::kLt>},
    {"<=", compares<Comparison::kLe>},
    {"le", compares<Comparison::kLe>},
};

}  // namespace

Test find_test(std::string_view name) {
  for (const NamedTest& entry : kTests) {
    if (entry.name == name) return entry.test;
  }
  return nullptr;
}

}  // namespace edgewise::jinja
