// "{0.name!r:>{width}}".format(...), with the format specifications of Python's plain data.
#include <cmath>

#include "text/jinja/failure.h"
#include "text/jinja/format.h"
#include "text/jinja/format_number.h"
#include "text/jinja/operators.h"
#include "text/jinja/unicode.h"

namespace edgewise::jinja {
namespace {

// [[fill]align][sign][z][#][0][width][grouping][.precision][type]
struct Spec {
  std::string fill = " ";
  char align = 0;
  char sign = '-';
  bool alternate = false;
  int64_t width = 0;
  char grouping = 0;
  int64_t precision = -1;
  char type = 0;
};

int64_t read_digits(const std::string& text, size_t& at, bool& any) {
  int64_t number = 0;
  any = false;
  while (at < text.size() && text[at] >= '0' && text[at] <= '9') {
    number = number * 10 + (text[at++] - '0');
    any = true;
    if (number > kMaxFormatWidth) limit_error("a field wider than {}", kMaxFormatWidth);
  }
  return number;
}

bool is_align(char c) { return c == '<' || c == '>' || c == '=' || c == '^'; }

Spec parse_spec(const std::string& text) {
  Spec spec;
  size_t at = 0;
  bool fill_given = false;
  const auto at_char = [&](const char* set) {
    return at < text.size() && std::string_view(set).find(text[at]) != std::string_view::npos;
  };
  if (!text.empty()) {
    size_t after = 0;
    next_code_point(text, after);
    if (after < text.size() && is_align(text[after])) {
      spec.fill = text.substr(0, after);
      fill_given = true;
      spec.align = text[after];
      at = after + 1;
    } else if (is_align(text[0])) {
      spec.align = text[at++];
    }
  }
  if (at_char("+- ")) spec.sign = text[at++];
  if (at_char("z")) ++at;
  if (at_char("#")) spec.alternate = text[at++] == '#';
  if (at_char("0")) {
    ++at;
    if (!fill_given) spec.fill = "0";
    if (spec.align == 0) spec.align = '=';
  }
  bool any = false;
  spec.width = read_digits(text, at, any);
  if (at_char(",_")) spec.grouping = text[at++];
  if (at_char(".")) {
    ++at;
    spec.precision = read_digits(text, at, any);
    if (!any) value_error("Format specifier missing precision");
  }
  if (at < text.size()) spec.type = text[at++];
  if (at < text.size()) value_error("Invalid format specifier");
  return spec;
}

std::string padded(const std::string& sign, std::string body, const Spec& spec, char otherwise) {
  const char align = spec.align == 0 ? otherwise : spec.align;
  const auto length = static_cast<int64_t>(count_code_points(sign) + count_code_points(body));
  if (length >= spec.width) return sign + body;
  const int64_t missing = spec.width - length;
  const auto fill = [&](int64_t count) {
    std::string text;
    for (int64_t i = 0; i < count; ++i) text += spec.fill;
    return text;
  };
  switch (align) {
    case '<':
      return sign + body + fill(missing);
    case '^':
      return fill(missing / 2) + sign + body + fill(missing - missing / 2);
    case '=':
      return sign + fill(missing) + body;
    default:
      return fill(missing) + sign + body;
  }
}

// Puts separators between groups of the leading digits, filling up with zeros to `min_width` where asked.
std::string grouped(const std::string& digits, char separator, size_t every, size_t min_width) {
  size_t whole = 0;
  while (whole < digits.size() && std::isxdigit(static_cast<unsigned char>(digits[whole])) != 0 &&
         (every == 4 || digits[whole] <= '9')) {
    ++whole;
  }
  const std::string rest = digits.substr(whole);
  std::string reversed;
  size_t count = 0;
  for (size_t i = whole; i > 0 || reversed.size() + rest.size() < min_width; ++count) {
    if (count > 0 && count % every == 0) reversed += separator;
    reversed += i > 0 ? digits[--i] : '0';
  }
  return std::string(reversed.rbegin(), reversed.rend()) + rest;
}

std::string finish_number(bool negative, const std::string& prefix, std::string digits, const Spec& spec,
                          size_t every) {
  const std::string sign = (negative ? "-" : spec.sign == '-' ? "" : std::string(1, spec.sign)) + prefix;
  if (spec.grouping != 0) {
    const bool zeros = spec.fill == "0" && spec.align == '=';
    const size_t target =
        zeros && spec.width > static_cast<int64_t>(sign.size()) ? static_cast<size_t>(spec.width) - sign.size() : 0;
    digits = grouped(digits, spec.grouping, every, target);
  }
  return padded(sign, digits, spec, '>');
}

std::string format_real(double number, const Spec& spec) {
  const bool negative = std::signbit(number) && !std::isnan(number);
  char type = spec.type;
  int precision = spec.precision < 0 ? 6 : static_cast<int>(std::min<int64_t>(spec.precision, kMaxPrecision));
  std::string digits;
  if (type == 0 && spec.precision < 0) {
    digits = float_repr(std::fabs(number));
  } else if (type == 0) {
    // Like 'g', but never without a digit behind the point, and scientific one digit earlier.
    digits = float_digits(number, 'g', std::max(precision, 1), spec.alternate);
    const double magnitude = std::fabs(number);
    const bool plain = digits.find_first_of(".en") == std::string::npos;
    if (plain && magnitude >= std::pow(10.0, precision - 1)) {
      digits = float_digits(number, 'e', std::max(precision, 1) - 1, false);
      const size_t mark = digits.find('e');
      std::string mantissa = digits.substr(0, mark);
      if (mantissa.find('.') != std::string::npos) {
        while (mantissa.back() == '0') mantissa.pop_back();
        if (mantissa.back() == '.') mantissa.pop_back();
      }
      digits = mantissa + digits.substr(mark);
    } else if (plain) {
      digits += ".0";
    }
  } else if (type == '%') {
    digits = float_digits(number * 100, 'f', precision, spec.alternate) + "%";
  } else {
    if (type == 'n') type = 'g';
    if (type == 'g' || type == 'G') precision = std::max(precision, 1);
    digits = float_digits(number, type, precision, spec.alternate);
  }
  return finish_number(negative, "", digits, spec, 3);
}

std::string format_integer(int64_t number, const Spec& spec) {
  if (spec.precision >= 0) value_error("Precision not allowed in integer format specifier");
  const bool upper = spec.type == 'X';
  const int base = spec.type == 'b' ? 2 : spec.type == 'o' ? 8 : spec.type == 'x' || upper ? 16 : 10;
  if (spec.grouping == ',' && base != 10) value_error("Cannot specify ',' with '{}'.", spec.type);
  const std::string prefix = spec.alternate && base != 10 ? std::string("0") + spec.type : "";
  return finish_number(number < 0, prefix, integer_digits(number, base, upper), spec, base == 10 ? 3 : 4);
}

std::string format_text(const Value& value, const Spec& spec) {
  if (spec.type != 0 && spec.type != 's') {
    value_error("Unknown format code '{}' for object of type '{}'", spec.type, type_name(value));
  }
  if (spec.sign != '-') value_error("Sign not allowed in string format specifier");
  if (spec.alternate) value_error("Alternate form (#) not allowed in string format specifier");
  if (spec.grouping != 0) value_error("Cannot specify '{}' with 's'.", spec.grouping);
  if (spec.align == '=' && spec.fill != "0") value_error("'=' alignment not allowed in string format specifier");
  std::string text = value.text();
  if (spec.precision >= 0) text.resize(byte_offset(text, static_cast<size_t>(spec.precision)));
  Spec plain = spec;
  if (plain.align == '=') plain.align = '<';
  return padded("", text, plain, '<');
}

class BraceFormatter {
 public:
  BraceFormatter(bool markup, const Args& args) : markup_(markup), args_(args) {}

  std::string run(const std::string& format, int level) {
    if (level > 2) value_error("Max string recursion exceeded");
    std::string out;
    for (size_t at = 0; at < format.size();) {
      Budget::check_text(out.size());
      const char c = format[at++];
      if (c != '{' && c != '}') {
        out += c;
      } else if (at < format.size() && format[at] == c) {
        out += c;
        ++at;
      } else if (c == '}') {
        value_error("Single '}}' encountered in format string");
      } else {
        out += field(field_text(format, at), level);
      }
    }
    return out;
  }

 private:
  // The text up to the brace that closes the field, braces within counted.
  static std::string field_text(const std::string& format, size_t& at) {
    const size_t start = at;
    int open = 1;
    while (at < format.size()) {
      const char c = format[at++];
      open += c == '{' ? 1 : c == '}' ? -1 : 0;
      if (open == 0) return format.substr(start, at - 1 - start);
    }
    if (start == format.size()) value_error("Single '{{' encountered in format string");
    value_error("expected '}}' before end of string");
  }

  std::string field(const std::string& text, int level) {
    const size_t end = end_of_name(text);
    Value value = look_up(text.substr(0, end));
    size_t at = end;
    if (at < text.size() && text[at] == '!') {
      if (at + 1 >= text.size()) value_error("end of string while looking for conversion specifier");
      const char conversion = text[at + 1];
      at += 2;
      if (at < text.size() && text[at] != ':') value_error("expected ':' after conversion specifier");
      if (conversion == 's')
        value = to_str(value);
      else if (conversion == 'r')
        value = make_str(repr(value));
      else if (conversion == 'a')
        value = format_percent(make_str("%a"), make_tuple({value}));
      else
        value_error("Unknown conversion specifier '{}'", conversion);
    }
    const std::string spec = at < text.size() ? run(text.substr(at + 1), level + 1) : "";
    if (markup_ && value.is_markup()) {
      if (!spec.empty()) value_error("Unsupported format specification for Markup.");
      return value.text();
    }
    const std::string formatted = format_with_spec(value, spec);
    return markup_ ? escape(make_str(formatted)).text() : formatted;
  }

  static size_t end_of_name(const std::string& text) {
    bool bracket = false;
    for (size_t at = 0; at < text.size(); ++at) {
      if (text[at] == '[') bracket = true;
      if (text[at] == ']') bracket = false;
      if (!bracket && (text[at] == '!' || text[at] == ':')) return at;
    }
    return text.size();
  }

  Value look_up(const std::string& name) {
    const size_t first_end = std::min(name.find_first_of(".["), name.size());
    if (first_end == 0 && !name.empty()) throw Failure("KeyError", "''");  // only a bare {} counts by itself
    Value value = root(name.substr(0, first_end));
    for (size_t at = first_end; at < name.size();) {
      if (name[at] == '.') {
        const size_t end = std::min(name.find_first_of(".[", at + 1), name.size());
        if (end == at + 1) value_error("Empty attribute in format string");
        value = get_attribute(value, name.substr(at + 1, end - at - 1));
        at = end;
      } else if (name[at] == '[') {
        const size_t end = name.find(']', at);
        if (end == std::string::npos) value_error("Missing ']' in format string");
        if (end == at + 1) value_error("Empty attribute in format string");
        const std::string key = name.substr(at + 1, end - at - 1);
        value = get_item(value, is_number(key) ? Value(static_cast<int64_t>(std::stoll(key))) : make_str(key));
        at = end + 1;
      } else {
        value_error("Only '.' or '[' may follow ']' in format field specifier");
      }
    }
    return value;
  }

  static bool is_number(const std::string& text) {
    return !text.empty() && text.size() < 18 && text.find_first_not_of("0123456789") == std::string::npos;
  }

  Value root(const std::string& name) {
    if (name.empty() || is_number(name)) {
      if (name.empty() ? manual_ : automatic_)
        value_error("cannot switch between manual and automatic field numbering");
      (name.empty() ? automatic_ : manual_) = true;
      const size_t index = name.empty() ? next_++ : static_cast<size_t>(std::stoll(name));
      if (index >= args_.positional.size()) {
        throw Failure("IndexError", fmt::format("Replacement index {} out of range for positional args", index));
      }
      return args_.positional[index];
    }
    for (const auto& [key, value] : args_.named) {
      if (key == name) return value;
    }
    throw Failure("KeyError", string_literal(name));
  }

  const bool markup_;
  const Args& args_;
  size_t next_ = 0;
  bool automatic_ = false;
  bool manual_ = false;
};

}  // namespace

std::string format_with_spec(const Value& value, const std::string& text) {
  if (text.empty()) return to_text(value);
  if (!value.is_str() && !value.is_number()) {
    type_error("unsupported format string passed to {}.__format__", type_name(value));
  }
  const Spec spec = parse_spec(text);
  if (value.is_str()) return format_text(value, spec);
  const std::string_view integer_types = "bdoxXnc";
  const std::string_view float_types = "eEfFgG%n";
  if (value.is(Kind::kFloat)) {
    if (spec.type != 0 && float_types.find(spec.type) == std::string_view::npos) {
      value_error("Unknown format code '{}' for object of type 'float'", spec.type);
    }
    return format_real(value.number(), spec);
  }
  if (spec.type == 's' && value.is(Kind::kBool)) value_error("Unknown format code 's' for object of type 'bool'");
  if (spec.type == 'c') return format_percent(make_str("%c"), value).text();
  if (spec.type == 0 || integer_types.find(spec.type) != std::string_view::npos) {
    return format_integer(value.integer(), spec);
  }
  if (float_types.find(spec.type) == std::string_view::npos) {
    value_error("Unknown format code '{}' for object of type '{}'", spec.type, type_name(value));
  }
  return format_real(static_cast<double>(value.integer()), spec);
}

Value format_braces(const Value& format, const Args& args) {
  return make_str(BraceFormatter(format.is_markup(), args).run(format.text(), 1), format.is_markup());
}

}  // namespace edgewise::jinja
