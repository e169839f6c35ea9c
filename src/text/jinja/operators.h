// Python's operators and protocols on values.
#pragma once

#include <string>

#include "text/jinja/value.h"

namespace edgewise::jinja {

enum class Operator { kAdd, kSub, kMul, kDiv, kFloorDiv, kMod, kPow };
enum class Comparison { kEq, kNe, kLt, kLe, kGt, kGe, kIn, kNotIn };

std::string type_name(const Value& value);
bool truthy(const Value& value);
bool equals(const Value& a, const Value& b);
bool same_as(const Value& a, const Value& b);  // Python's `is`, for the values where it can be told
bool less(const Value& a, const Value& b);     // throws TypeError where Python has no order
bool compare(Comparison comparison, const Value& a, const Value& b);
bool contains(const Value& container, const Value& item);
size_t hash_of(const Value& value);  // throws TypeError for unhashable values

Value apply(Operator op, const Value& a, const Value& b);
Value negate(const Value& value);
Value unary_plus(const Value& value);

[[noreturn]] void fail_undefined(const Value& undefined);
// Python's len(); throws TypeError.
int64_t length_of(const Value& value);
bool is_iterable(const Value& value);
Next iterate(const Value& value);  // throws TypeError
std::vector<Value> to_vector(const Value& iterable);
bool is_callable(const Value& value);
Value call(const Value& function, const Args& args);

// An index or count: an int or a bool; throws TypeError.
int64_t to_index(const Value& value);
// Python's str(), as text.
std::string to_text(const Value& value);
// Python's str(): Markup becomes a plain string.
Value to_str(const Value& value);
// markupsafe's soft_str(): Markup stays Markup.
Value to_soft_str(const Value& value);
std::string repr(const Value& value);
std::string float_repr(double value);
// A Python string literal.
std::string string_literal(std::string_view text);
// Markup, with the HTML characters escaped unless it was Markup already.
Value escape(const Value& value);

// environment.getattr, environment.getitem, and obj[start:stop:step] of the sandbox.
Value get_attribute(const Value& object, const std::string& name);
Value get_item(const Value& object, const Value& key);
Value get_slice(const Value& object, const Value& start, const Value& stop, const Value& step);
// Only real attributes: absent where Python's getattr would raise.
std::optional<Value> own_attribute(const Value& object, const std::string& name);

}  // namespace edgewise::jinja
