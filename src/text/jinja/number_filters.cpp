// Filters on numbers, and between numbers and text.
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "text/jinja/failure.h"
#include "text/jinja/filters.h"
#include "text/jinja/methods.h"
#include "text/jinja/operators.h"
#include "text/jinja/unicode.h"

namespace edgewise::jinja {
namespace {

// Strips spaces, turns digits of any script into ASCII, and takes the underscores between digits out.
// Absent when what is left can't be a Python number.
std::optional<std::string> plain_number(std::string_view text) {
  std::string out;
  bool after_digit = false;
  const std::u32string code_points = decode(strip_text(text, nullptr, true, true));
  for (size_t i = 0; i < code_points.size(); ++i) {
    const char32_t c = code_points[i];
    if (c == U'_') {
      const bool between = after_digit && i + 1 < code_points.size() && is_alnum(code_points[i + 1]);
      if (!between) return std::nullopt;
      after_digit = false;
      continue;
    }
    const int digit = decimal_value(c);
    if (digit < 0 && c >= 0x80) return std::nullopt;
    out += digit >= 0 ? static_cast<char>('0' + digit) : static_cast<char>(c);
    after_digit = is_alnum(c);
  }
  return out;
}

// int(text, base); absent where Python raises ValueError.
std::optional<int64_t> parse_integer(std::string_view text, int64_t base) {
  if (base != 0 && (base < 2 || base > 36)) return std::nullopt;
  auto plain = plain_number(text);
  if (!plain) return std::nullopt;
  std::string_view digits = *plain;
  const bool negative = digits.starts_with('-');
  if (negative || digits.starts_with('+')) digits.remove_prefix(1);
  if (digits.size() > 1 && digits[0] == '0') {
    const char letter = static_cast<char>(digits[1] | 0x20);
    const int64_t prefixed = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    if (prefixed != 0 && (base == 0 || base == prefixed)) {
      digits.remove_prefix(2);
      base = prefixed;
    } else if (base == 0 && digits.find_first_not_of('0') != std::string_view::npos) {
      return std::nullopt;
    }
  }
  if (base == 0) base = 10;
  uint64_t magnitude = 0;
  const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), magnitude, static_cast<int>(base));
  if (digits.empty() || result.ptr != digits.data() + digits.size()) return std::nullopt;
  const uint64_t limit = uint64_t{1} << 63;
  if (result.ec != std::errc() || magnitude > limit || (magnitude == limit && !negative)) {
    overflow_error("an integer beyond 64 bits: {}", *plain);
  }
  return static_cast<int64_t>(negative ? uint64_t{0} - magnitude : magnitude);
}

// float(text); absent where Python raises ValueError.
std::optional<double> parse_float(std::string_view text) {
  const auto plain = plain_number(text);
  if (!plain || plain->empty()) return std::nullopt;
  std::string_view rest = *plain;
  const bool negative = rest.starts_with('-');
  if (negative || rest.starts_with('+')) rest.remove_prefix(1);
  if (rest.empty() || rest[0] == '-' || rest[0] == '+') return std::nullopt;
  const std::string lower = to_lower(rest);
  if (lower.find_first_of("xp(") != std::string::npos) return std::nullopt;
  if (lower[0] > '9' && lower != "inf" && lower != "infinity" && lower != "nan") return std::nullopt;
  double number = 0;
  const auto result = std::from_chars(lower.data(), lower.data() + lower.size(), number);
  if (result.ptr != lower.data() + lower.size() || result.ec == std::errc::invalid_argument) return std::nullopt;
  // Out of range: strtod tells infinity from zero.
  if (result.ec == std::errc::result_out_of_range) number = std::strtod(lower.c_str(), nullptr);
  return negative ? -number : number;
}

std::optional<double> to_float(const Value& value) {
  if (value.is_number()) return value.number();
  if (value.is_str()) return parse_float(value.text());
  if (value.is_undefined()) fail_undefined(value);
  return std::nullopt;
}

// int(float): absent for NaN and infinity.
std::optional<int64_t> truncated(double number) {
  if (!std::isfinite(number)) return std::nullopt;
  if (std::fabs(number) >= 9.2233720368547758e18) overflow_error("an integer beyond 64 bits: {}", float_repr(number));
  return static_cast<int64_t>(number);
}

Value to_int(const Value& value, const Args& args) {
  const Signature given("int", args, {"default", "base"}, 0);
  const Value otherwise = given.get(0, int64_t{0});
  if (value.is_integral()) return value.integer();
  if (value.is_str()) {
    if (const auto number = parse_integer(value.text(), given.integer(1, 10))) return *number;
  }
  const auto number = to_float(value);
  const auto whole = number ? truncated(*number) : std::nullopt;
  if (!whole && value.is(Kind::kFloat) && std::isinf(*number))
    overflow_error("cannot convert float infinity to integer");
  return whole ? Value(*whole) : otherwise;
}

Value to_float_filter(const Value& value, const Args& args) {
  const Signature given("float", args, {"default"}, 0);
  const auto number = to_float(value);
  return number ? Value(*number) : given.get(0, 0.0);
}

Value absolute(const Value& value, const Args& args) {
  Signature("abs", args, {}, 0);
  if (value.is_undefined()) fail_undefined(value);
  if (value.is(Kind::kFloat)) return std::fabs(value.number());
  if (!value.is_integral()) type_error("bad operand type for abs(): '{}'", type_name(value));
  return value.integer() < 0 ? negate(value) : Value(value.integer());
}

double power_of_ten(int64_t exponent) { return std::pow(10.0, static_cast<double>(exponent)); }

Value round_integer(int64_t number, int64_t precision) {
  if (precision >= 0) return number;
  if (precision < -18) return int64_t{0};
  int64_t unit = 1;
  for (int64_t i = precision; i < 0; ++i) unit *= 10;
  int64_t rest = number % unit;
  if (rest < 0) rest += unit;
  // Half goes to the even neighbour.
  const int64_t down = number - rest;
  const bool up = rest > unit - rest || (rest == unit - rest && (down / unit) % 2 != 0);
  return up ? apply(Operator::kAdd, Value(down), Value(unit)) : Value(down);
}

double round_float(double number, int64_t precision) {
  if (!std::isfinite(number) || precision > 330) return number;
  if (precision < -310) return std::copysign(0.0, number);
  if (precision < 0) {
    const double unit = power_of_ten(-precision);
    return std::nearbyint(number / unit) * unit;
  }
  const std::string text = fmt::format("{:.{}f}", number, static_cast<int>(precision));
  return std::strtod(text.c_str(), nullptr);
}

Value round(const Value& value, const Args& args) {
  const Signature given("round", args, {"precision", "method"}, 0);
  const std::string method = given[1] ? to_text(*given[1]) : "common";
  if (method != "common" && method != "ceil" && method != "floor")
    argument_error("method must be common, ceil or floor");
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is_number()) type_error("type {} doesn't define __round__ method", type_name(value));
  const bool whole_default = method == "common" && given[0] != nullptr && given[0]->is_none();
  const int64_t precision = whole_default ? 0 : given.integer(0, 0);
  if (method == "common") {
    if (value.is_integral()) return round_integer(value.integer(), precision);
    const double rounded = round_float(value.number(), precision);
    if (!whole_default) return rounded;
    const auto whole = truncated(rounded);
    if (!whole) value_error("cannot convert float {} to integer", float_repr(rounded));
    return *whole;
  }
  const Value scale = apply(Operator::kPow, Value(int64_t{10}), Value(precision));
  const Value scaled = apply(Operator::kMul, value, scale);
  const auto whole = truncated(method == "ceil" ? std::ceil(scaled.number()) : std::floor(scaled.number()));
  if (!whole) overflow_error("cannot convert float {} to integer", float_repr(scaled.number()));
  return apply(Operator::kDiv, scaled.is_integral() ? scaled : Value(*whole), scale);
}

Value file_size(const Value& value, const Args& args) {
  const Signature given("filesizeformat", args, {"binary"}, 0);
  const auto bytes = to_float(value);
  if (!bytes) value_error("could not convert to float: {}", repr(value));
  const bool binary = given.boolean(0, false);
  const double base = binary ? 1024 : 1000;
  if (*bytes == 1) return make_str("1 Byte");
  if (*bytes < base) {
    const auto whole = truncated(*bytes);
    if (!whole) value_error("cannot convert float NaN to integer");
    return make_str(fmt::format("{} Bytes", *whole));
  }
  double unit = base;
  static constexpr std::string_view kPrefixes = "kMGTPEZY";
  for (size_t i = 0; i < kPrefixes.size(); ++i) {
    unit *= base;
    if (*bytes >= unit && i + 1 < kPrefixes.size()) continue;
    const std::string prefix(1, binary && i == 0 ? 'K' : kPrefixes[i]);
    return make_str(fmt::format("{:.1f} {}{}B", base * *bytes / unit, prefix, binary ? "i" : ""));
  }
  return make_str("");
}

constexpr NamedFilter kNumberFilters[] = {
    {"int", to_int}, {"float", to_float_filter}, {"abs", absolute}, {"round", round}, {"filesizeformat", file_size},
};

}  // namespace

Filter find_number_filter(std::string_view name) {
  for (const NamedFilter& entry : kNumberFilters) {
    if (entry.name == name) return entry.filter;
  }
  return nullptr;
}

}  // namespace edgewise::jinja
