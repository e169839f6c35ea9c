#include "text/jinja/format.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "text/jinja/failure.h"
#include "text/jinja/format_number.h"
#include "text/jinja/operators.h"
#include "text/jinja/unicode.h"

namespace edgewise::jinja {
namespace {

// One conversion of a %-format: %(key)#0- +12.3d
struct Conversion {
  bool left = false, plus = false, space = false, alternate = false, zero = false;
  int64_t width = 0;
  int64_t precision = -1;
  char type = 0;
};

// Walks a %-format and hands out the values.
class PercentFormatter {
 public:
  PercentFormatter(const Value& format, const Value& values)
      : format_(format.text()), markup_(format.is_markup()), values_(values) {}

  std::string run() {
    std::string out;
    while (at_ < format_.size()) {
      if (format_[at_] != '%') {
        out += format_[at_++];
        continue;
      }
      ++at_;
      out += convert();
      Budget::check_text(out.size());
    }
    check_all_used();
    return out;
  }

 private:
  char peek() const {
    if (at_ >= format_.size()) value_error("incomplete format");
    return format_[at_];
  }

  Value next_value() {
    if (keyed_) return current_;
    if (values_.is(Kind::kTuple)) {
      if (used_ >= values_.items().size()) type_error("not enough arguments for format string");
      return values_.items()[used_++];
    }
    if (used_++ > 0) type_error("not enough arguments for format string");
    return values_;
  }

  void check_all_used() const {
    if (keyed_ever_) return;
    const bool mapping = values_.is(Kind::kDict) || values_.is(Kind::kList) || values_.is_undefined();
    const bool left_over = values_.is(Kind::kTuple) ? used_ < values_.items().size() : used_ == 0 && !mapping;
    if (left_over) type_error("not all arguments converted during string formatting");
  }

  void read_key() {
    keyed_ = false;
    if (peek() != '(') return;
    int open = 1;
    const size_t start = ++at_;
    while (open > 0) {
      const char c = peek();
      open += c == '(' ? 1 : c == ')' ? -1 : 0;
      ++at_;
    }
    const std::string key = format_.substr(start, at_ - 1 - start);
    if (!values_.is(Kind::kDict)) type_error("format requires a mapping");
    const Value* found = values_.dict().find(key);
    if (found == nullptr) throw Failure("KeyError", string_literal(key));
    current_ = *found;
    keyed_ = keyed_ever_ = true;
  }

  int64_t read_number(Conversion& conversion) {
    if (peek() == '*') {
      ++at_;
      const Value value = next_value();
      if (!value.is_integral()) type_error("* wants int");
      int64_t number = value.integer();
      if (number < 0) {
        conversion.left = true;
        number = number < -kMaxFormatWidth ? kMaxFormatWidth + 1 : -number;
      }
      return checked_width(number);
    }
    int64_t number = 0;
    while (peek() >= '0' && peek() <= '9') number = checked_width(number * 10 + (format_[at_++] - '0'));
    return number;
  }

  static int64_t checked_width(int64_t width) {
    if (width > kMaxFormatWidth) limit_error("a field wider than {}", kMaxFormatWidth);
    return width;
  }

  Conversion read_conversion() {
    Conversion conversion;
    read_key();
    for (;; ++at_) {
      const char c = peek();
      if (c == '-')
        conversion.left = true;
      else if (c == '+')
        conversion.plus = true;
      else if (c == ' ')
        conversion.space = true;
      else if (c == '#')
        conversion.alternate = true;
      else if (c == '0')
        conversion.zero = true;
      else
        break;
    }
    conversion.width = read_number(conversion);
    if (peek() == '.') {
      ++at_;
      Conversion ignored;
      conversion.precision = read_number(ignored);
      if (ignored.left) conversion.precision = 0;
    }
    while (peek() == 'l' || peek() == 'h' || peek() == 'L') ++at_;
    conversion.type = peek();
    ++at_;
    return conversion;
  }

  std::string convert() {
    const Conversion conversion = read_conversion();
    switch (conversion.type) {
      case '%':
        return "%";
      case 's':
      case 'r':
      case 'a':
        return pad(text_of(conversion.type), conversion, conversion.precision);
      case 'c':
        return pad(character(), conversion, -1);
      case 'd':
      case 'i':
      case 'u':
      case 'o':
      case 'x':
      case 'X':
        return integer(conversion);
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G':
        return real(conversion);
      default:
        value_error("unsupported format character '{}'", conversion.type);
    }
  }

  std::string text_of(char type) {
    const Value value = next_value();
    std::string text = type == 's' ? to_text(value) : repr(value);
    if (type == 'a') {
      std::string ascii;
      for (const char32_t c : decode(text)) {
        const auto code = static_cast<uint32_t>(c);
        if (code < 0x80)
          ascii += static_cast<char>(code);
        else if (code < 0x100)
          ascii += fmt::format("\\x{:02x}", code);
        else
          ascii += code < 0x10000 ? fmt::format("\\u{:04x}", code) : fmt::format("\\U{:08x}", code);
      }
      text = ascii;
    }
    if (!markup_) return text;
    return type == 's' && value.is_markup() ? text : escape(make_str(text)).text();
  }

  std::string character() {
    const Value value = next_value();
    if (value.is_str() && value.str().length == 1) return value.text();
    if (!value.is_integral()) type_error("%c requires int or char");
    const int64_t code = value.integer();
    if (code < 0 || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) overflow_error("%c arg not in range");
    std::string text;
    append_code_point(text, static_cast<char32_t>(code));
    return text;
  }

  std::string integer(const Conversion& conversion) {
    const Value value = next_value();
    const bool decimal = conversion.type == 'd' || conversion.type == 'i' || conversion.type == 'u';
    int64_t number = 0;
    if (value.is_integral()) {
      number = value.integer();
    } else if (decimal && value.is(Kind::kFloat)) {
      if (!(std::fabs(value.number()) < 9.2e18)) overflow_error("cannot convert float to a 64 bit integer");
      number = static_cast<int64_t>(value.number());
    } else if (value.is_undefined()) {
      fail_undefined(value);
    } else {
      type_error("%{} format: a real number is required, not {}", conversion.type, type_name(value));
    }
    const int base = decimal ? 10 : conversion.type == 'o' ? 8 : 16;
    std::string digits = integer_digits(number, base, conversion.type == 'X');
    if (conversion.precision > static_cast<int64_t>(digits.size())) {
      digits.insert(0, static_cast<size_t>(conversion.precision) - digits.size(), '0');
    }
    const std::string prefix = !conversion.alternate || decimal ? "" : std::string("0") + conversion.type;
    return signed_number(number < 0, prefix, digits, conversion);
  }

  std::string real(const Conversion& conversion) {
    const Value value = next_value();
    if (value.is_undefined()) fail_undefined(value);
    if (!value.is_number()) type_error("must be real number, not {}", type_name(value));
    const double number = value.number();
    const int precision =
        conversion.precision < 0 ? 6 : static_cast<int>(std::min<int64_t>(conversion.precision, kMaxPrecision));
    const std::string digits = float_digits(number, conversion.type, precision, conversion.alternate);
    return signed_number(std::signbit(number) && !std::isnan(number), "", digits, conversion);
  }

  static std::string signed_number(bool negative, const std::string& prefix, std::string digits,
                                   const Conversion& conversion) {
    const std::string sign = negative ? "-" : conversion.plus ? "+" : conversion.space ? " " : "";
    const auto used = static_cast<int64_t>(sign.size() + prefix.size() + digits.size());
    if (conversion.zero && !conversion.left && conversion.width > used) {
      digits.insert(0, static_cast<size_t>(conversion.width - used), '0');
    }
    return pad(sign + prefix + digits, conversion, -1);
  }

  static std::string pad(std::string text, const Conversion& conversion, int64_t precision) {
    auto length = static_cast<int64_t>(count_code_points(text));
    if (precision >= 0 && precision < length) {
      text.resize(byte_offset(text, static_cast<size_t>(precision)));
      length = precision;
    }
    if (length >= conversion.width) return text;
    const std::string spaces(static_cast<size_t>(conversion.width - length), ' ');
    return conversion.left ? text + spaces : spaces + text;
  }

  const std::string& format_;
  const bool markup_;
  const Value& values_;
  size_t at_ = 0;
  size_t used_ = 0;
  bool keyed_ = false;
  bool keyed_ever_ = false;
  Value current_;
};

}  // namespace

std::string integer_digits(int64_t value, int base, bool upper) {
  uint64_t magnitude = value < 0 ? uint64_t{0} - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  const char* symbols = upper ? "0123456789ABCDEF" : "0123456789abcdef";
  std::string digits;
  do {
    digits += symbols[magnitude % static_cast<uint64_t>(base)];
    magnitude /= static_cast<uint64_t>(base);
  } while (magnitude > 0);
  std::reverse(digits.begin(), digits.end());
  return digits;
}

std::string float_digits(double value, char conversion, int precision, bool alternate) {
  const bool upper = conversion == 'E' || conversion == 'F' || conversion == 'G';
  if (std::isnan(value)) return upper ? "NAN" : "nan";
  if (std::isinf(value)) return upper ? "INF" : "inf";
  const char format[] = {
      '%', alternate ? '#' : '.', alternate ? '.' : '*', alternate ? '*' : conversion, alternate ? conversion : '\0',
      '\0'};
  const int size = std::snprintf(nullptr, 0, format, precision, std::fabs(value));
  std::string digits(static_cast<size_t>(size) + 1, '\0');
  std::snprintf(digits.data(), digits.size(), format, precision, std::fabs(value));
  digits.pop_back();
  return digits;
}

Value format_percent(const Value& format, const Value& values) {
  return make_str(PercentFormatter(format, values).run(), format.is_markup());
}

}  // namespace edgewise::jinja
