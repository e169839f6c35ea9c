// The scalars of a schema as regular expressions.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "grammar/code_points.h"
#include "grammar/formats.h"
#include "grammar/pattern_parser.h"
#include "grammar/schema_compiler.h"
#include "text/utf8.h"

namespace edgewise::grammar {
namespace {

constexpr uint32_t kMaxDivisor = 1000;
constexpr uint32_t kMaxFraction = 15;

// Without patterns every spelling of a character will do. Patterns and formats describe the one spelling.
Regex string_of(RegexPool& pool, const JsonText& text, const Shape& shape) {
  if (shape.min_length > shape.max_length) return kNothing;
  const bool plain = shape.patterns.empty() && shape.formats.empty();
  const bool bounded = shape.min_length > 0 || shape.max_length != ~uint32_t{0};
  std::vector<Regex> parts;
  if (plain || bounded)
    parts.push_back(pool.repeat(plain ? text.unit : text.key_unit, shape.min_length, shape.max_length));
  for (const auto& [pattern, pointer] : shape.patterns) {
    try {
      parts.push_back(parse_pattern(pool, pattern, json_class, PatternScope::kSearch));
    } catch (const Error& error) {
      refuse_schema(pointer, error.what());
    }
  }
  for (const auto& [format, pointer] : shape.formats) {
    const auto pattern = format_pattern(format);
    if (!pattern) refuse_schema(pointer, fmt::format("the format \"{}\" is not supported", format));
    parts.push_back(parse_pattern(pool, *pattern, json_class, PatternScope::kWhole));
  }
  return quoted(pool, text, pool.both(std::move(parts)));
}

// 10^-k as k; none for other numbers.
std::optional<uint32_t> negative_power_of_ten(const Decimal& value) {
  const size_t digits = value.fraction.size();
  if (value.whole != "0" || digits == 0 || digits > kMaxFraction) return std::nullopt;
  if (value.fraction != std::string(digits - 1, '0') + "1") return std::nullopt;
  return static_cast<uint32_t>(digits);
}

struct Steps {
  std::vector<uint32_t> divisors;  // of integers
  uint32_t max_fraction = kMaxFraction;
  bool whole = false;  // only integers are multiples
};

Steps steps_of(const Shape& shape) {
  Steps out;
  for (const auto& [number, pointer] : shape.multiples) {
    const Decimal value = decimal_of(*number);
    if (const auto digits = negative_power_of_ten(value)) {
      out.max_fraction = std::min(out.max_fraction, *digits);
      continue;
    }
    if (!value.fraction.empty() || value.whole.size() > 4 || std::stoul(value.whole) > kMaxDivisor) {
      refuse_schema(pointer,
                    fmt::format("multipleOf is supported for 1 to {} and for 0.1, 0.01 and so on", kMaxDivisor));
    }
    out.whole = true;
    if (value.whole != "1") out.divisors.push_back(static_cast<uint32_t>(std::stoul(value.whole)));
  }
  return out;
}

Regex number_of(RegexPool& pool, const JsonText& text, const Shape& shape) {
  if ((shape.types & kTypeInteger) == 0) return kNothing;
  const Steps steps = steps_of(shape);
  const bool integers = (shape.types & kTypeFraction) == 0 || steps.whole;
  if (!integers) {
    const bool plain = shape.bounds.empty() && steps.max_fraction == kMaxFraction;
    return plain ? text.number : bounded_number(pool, shape.bounds, steps.max_fraction);
  }
  std::vector<Regex> parts{shape.bounds.empty() ? text.integer : bounded_integer(pool, shape.bounds)};
  for (const uint32_t divisor : steps.divisors) {
    parts.push_back(pool.concat(pool.optional(pool.literal("-")), pool.multiple_of(divisor)));
  }
  return pool.both(std::move(parts));
}

bool number_admitted(const Shape& shape, const OrderedJson& constant) {
  const auto value = static_cast<long double>(constant.get<double>());
  for (const Bound& bound : shape.bounds) {
    const std::string digits = (bound.value.negative ? "-" : "") + bound.value.whole + "." + bound.value.fraction + "0";
    const long double limit = std::stold(digits);
    const bool inside = bound.lower ? value > limit : value < limit;
    if (!inside && (bound.strict || value != limit)) return false;
  }
  for (const auto& [number, pointer] : shape.multiples) {
    const double quotient = constant.get<double>() / number->get<double>();
    if (std::abs(quotient - std::round(quotient)) > 1e-9) return false;
  }
  return true;
}

}  // namespace

Regex scalars_of(RegexPool& pool, const JsonText& text, const Shape& shape) {
  std::vector<Regex> options;
  if (shape.types & kTypeNull) options.push_back(text.null);
  if (shape.types & kTypeBoolean) options.push_back(text.boolean);
  if (shape.types & kTypeString) {
    options.push_back(shape.has_string_keywords() ? string_of(pool, text, shape) : text.string);
  }
  options.push_back(number_of(pool, text, shape));
  return pool.either(std::move(options));
}

std::string text_of_constant(const OrderedJson& constant) {
  if (constant.is_string()) return "\"" + json_spelling(constant.get<std::string>()) + "\"";
  const bool small = constant.is_number_float() && std::abs(constant.get<double>()) < 1e15;
  if (small && type_of(constant) == kTypeInteger) return std::to_string(static_cast<int64_t>(constant.get<double>()));
  return constant.dump();
}

bool admits(RegexPool& pool, const JsonText& text, const Shape& shape, const OrderedJson& constant) {
  if (constant.is_number()) return number_admitted(shape, constant);
  if (!constant.is_string() || !shape.has_string_keywords()) return true;
  return pool.matches(string_of(pool, text, shape), text_of_constant(constant));
}

}  // namespace edgewise::grammar
