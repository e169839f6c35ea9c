#include "grammar/number_range.h"

#include <fmt/format.h>

#include <algorithm>

namespace edgewise::grammar {
namespace {

// The pieces of a decimal text.
class Digits {
 public:
  explicit Digits(RegexPool& pool) : pool_(pool) {}

  Regex between(char low, char high) const {
    return low > high ? kNothing : pool_.bytes(ByteSet::range(static_cast<uint8_t>(low), static_cast<uint8_t>(high)));
  }
  Regex any(uint32_t min, uint32_t max) const { return pool_.repeat(between('0', '9'), min, max); }
  Regex text(std::string_view digits) const { return pool_.literal(digits); }
  Regex with_point(Regex digits) const { return pool_.concat(pool_.literal("."), digits); }
  Regex any_fraction() const { return pool_.optional(with_point(any(1, kUnbounded))); }
  Regex zeros() const { return pool_.star(between('0', '0')); }

 private:
  RegexPool& pool_;
};

class Magnitude {
 public:
  Magnitude(RegexPool& pool, const Decimal& value, bool strict)
      : pool_(pool), digits_(pool), whole_(value.whole), fraction_(value.fraction), strict_(strict) {}

  Regex at_least() const {
    const auto length = static_cast<uint32_t>(whole_.size());
    std::vector<Regex> options{pool_.concat({digits_.any(length + 1, kUnbounded), digits_.any_fraction()})};
    for (uint32_t i = 0; i < length; ++i) {
      options.push_back(differs_at(i, digits_.between(static_cast<char>(whole_[i] + 1), '9')));
    }
    options.push_back(pool_.concat(digits_.text(whole_), fraction_at_least()));
    return pool_.either(std::move(options));
  }

  Regex at_most() const {
    const auto length = static_cast<uint32_t>(whole_.size());
    std::vector<Regex> options;
    if (length > 1) options.push_back(pool_.concat({digits_.any(1, length - 1), digits_.any_fraction()}));
    for (uint32_t i = 0; i < length; ++i) {
      options.push_back(differs_at(i, digits_.between('0', static_cast<char>(whole_[i] - 1))));
    }
    options.push_back(pool_.concat(digits_.text(whole_), fraction_at_most()));
    return pool_.either(std::move(options));
  }

 private:
  // As many digits, equal to the bound's up to `i`.
  Regex differs_at(uint32_t i, Regex digit) const {
    const uint32_t rest = static_cast<uint32_t>(whole_.size()) - i - 1;
    return pool_.concat({digits_.text(whole_.substr(0, i)), digit, digits_.any(rest, rest), digits_.any_fraction()});
  }

  Regex fraction_at_least() const {
    const Regex positive = pool_.concat({digits_.zeros(), digits_.between('1', '9'), digits_.any(0, kUnbounded)});
    if (fraction_.empty()) return strict_ ? digits_.with_point(positive) : digits_.any_fraction();
    std::vector<Regex> options;
    for (size_t i = 0; i < fraction_.size(); ++i) {
      options.push_back(
          pool_.concat({digits_.text(fraction_.substr(0, i)), digits_.between(static_cast<char>(fraction_[i] + 1), '9'),
                        digits_.any(0, kUnbounded)}));
    }
    options.push_back(pool_.concat(digits_.text(fraction_), strict_ ? positive : digits_.any(0, kUnbounded)));
    return digits_.with_point(pool_.either(std::move(options)));
  }

  Regex fraction_at_most() const {
    const Regex equal = strict_ ? kNothing : pool_.concat(digits_.text(fraction_), digits_.zeros());
    if (fraction_.empty()) {
      return strict_ ? kNothing : pool_.optional(digits_.with_point(pool_.repeat(digits_.text("0"), 1, kUnbounded)));
    }
    std::vector<Regex> options{equal};
    for (size_t i = 0; i < fraction_.size(); ++i) {
      const std::string_view head = fraction_.substr(0, i);
      if (i > 0) options.push_back(digits_.text(head));
      options.push_back(pool_.concat(
          {digits_.text(head), digits_.between('0', static_cast<char>(fraction_[i] - 1)), digits_.any(0, kUnbounded)}));
    }
    return pool_.optional(digits_.with_point(pool_.either(std::move(options))));
  }

  RegexPool& pool_;
  Digits digits_;
  std::string_view whole_;
  std::string_view fraction_;
  bool strict_;
};

bool is_zero(const Decimal& value) { return value.whole == "0" && value.fraction.empty(); }

// All texts on the right side of the bound, among others that are no numbers.
Regex beyond(RegexPool& pool, const Bound& bound) {
  const Regex minus = pool.literal("-");
  const Regex any = pool.repeat(pool.either({pool.bytes(ByteSet::range('0', '9')), pool.literal(".")}), 1, kUnbounded);
  const Magnitude magnitude(pool, bound.value, bound.strict);
  const bool negative = bound.value.negative && !is_zero(bound.value);
  if (bound.lower) {
    return negative ? pool.either({any, pool.concat(minus, magnitude.at_most())}) : magnitude.at_least();
  }
  return negative ? pool.concat(minus, magnitude.at_least())
                  : pool.either({pool.concat(minus, any), magnitude.at_most()});
}

Regex within(RegexPool& pool, Regex syntax, const std::vector<Bound>& bounds) {
  std::vector<Regex> parts{syntax};
  for (const Bound& bound : bounds) parts.push_back(beyond(pool, bound));
  return pool.both(std::move(parts));
}

}  // namespace

Decimal decimal_of(const OrderedJson& number) {
  std::string text = number.is_number_float() ? fmt::format("{}", number.get<double>()) : number.dump();
  Decimal out;
  if (text.starts_with('-')) {
    out.negative = true;
    text.erase(0, 1);
  }
  int exponent = 0;
  if (const size_t e = text.find('e'); e != std::string::npos) {
    exponent = std::stoi(text.substr(e + 1));
    text.resize(e);
  }
  size_t point = std::min(text.find('.'), text.size());
  if (point < text.size()) text.erase(point, 1);
  for (; exponent > 0; --exponent) {
    if (point == text.size()) text += '0';
    ++point;
  }
  for (; exponent < 0; ++exponent) {
    if (point == 0) {
      text.insert(0, 1, '0');
    } else {
      --point;
    }
  }
  out.whole = text.substr(0, point);
  out.fraction = text.substr(point);
  out.whole.erase(0, out.whole.find_first_not_of('0'));
  if (out.whole.empty()) out.whole = "0";
  out.fraction.erase(out.fraction.find_last_not_of('0') + 1);
  return out;
}

Regex bounded_integer(RegexPool& pool, const std::vector<Bound>& bounds) {
  const Digits digits(pool);
  const Regex positive = pool.concat(digits.between('1', '9'), digits.any(0, 17));
  const Regex syntax = pool.either({digits.text("0"), pool.concat(pool.optional(pool.literal("-")), positive)});
  return within(pool, syntax, bounds);
}

Regex bounded_number(RegexPool& pool, const std::vector<Bound>& bounds, uint32_t max_fraction) {
  constexpr uint32_t kDigits = 15;
  const Digits digits(pool);
  const auto fraction = [&](uint32_t room) {
    const uint32_t length = std::min(room, max_fraction);
    return length == 0 ? kEmpty : pool.optional(digits.with_point(digits.any(1, length)));
  };
  std::vector<Regex> positive;  // not zero
  for (uint32_t length = 1; length <= kDigits; ++length) {
    const Regex whole = pool.concat(digits.between('1', '9'), digits.any(length - 1, length - 1));
    positive.push_back(pool.concat(whole, fraction(kDigits - length)));
  }
  if (max_fraction > 0) {
    const Regex some = pool.both({digits.any(1, std::min(kDigits, max_fraction)), pool.complement(digits.zeros())});
    positive.push_back(pool.concat(digits.text("0."), some));
  }
  const Regex zero = pool.concat(digits.text("0"), pool.optional(digits.with_point(digits.text("0"))));
  const Regex minus = pool.optional(pool.literal("-"));
  const Regex syntax =
      pool.either({max_fraction == 0 ? digits.text("0") : zero, pool.concat(minus, pool.either(std::move(positive)))});
  return within(pool, syntax, bounds);
}

}  // namespace edgewise::grammar
