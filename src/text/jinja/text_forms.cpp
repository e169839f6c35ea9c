// str(), repr() and HTML escaping.
#include <array>
#include <charconv>
#include <cmath>

#include "text/jinja/failure.h"
#include "text/jinja/operators.h"
#include "text/jinja/unicode.h"

namespace edgewise::jinja {
namespace {

void append_repr(std::string& out, const Value& value);

void append_sequence(std::string& out, const Value& value) {
  const bool tuple = value.is(Kind::kTuple);
  out += tuple ? '(' : '[';
  const char* separator = "";
  for (const Value& item : value.items()) {
    out += separator;
    append_repr(out, item);
    separator = ", ";
  }
  if (tuple && value.items().size() == 1) out += ',';
  out += tuple ? ')' : ']';
}

void append_dict(std::string& out, const DictData& dict) {
  out += '{';
  const char* separator = "";
  for (const auto& [key, item] : dict.items) {
    out += separator;
    append_repr(out, key);
    out += ": ";
    append_repr(out, item);
    separator = ", ";
  }
  out += '}';
}

void append_repr(std::string& out, const Value& value) {
  Budget::step();
  Budget::check_stack();
  Budget::check_text(out.size());
  switch (value.kind()) {
    case Kind::kUndefined:
      out += "Undefined";
      break;
    case Kind::kNone:
      out += "None";
      break;
    case Kind::kBool:
      out += value.boolean() ? "True" : "False";
      break;
    case Kind::kInt:
      out += std::to_string(value.integer());
      break;
    case Kind::kFloat:
      out += float_repr(value.number());
      break;
    case Kind::kStr:
      out += value.is_markup() ? "Markup(" + string_literal(value.text()) + ")" : string_literal(value.text());
      break;
    case Kind::kList:
    case Kind::kTuple:
      append_sequence(out, value);
      break;
    case Kind::kDict:
      append_dict(out, value.dict());
      break;
    case Kind::kObject:
      out += value.object()->repr();
      break;
  }
}

void append_escape_sequence(std::string& out, char32_t c) {
  if (c == U'\n') {
    out += "\\n";
  } else if (c == U'\r') {
    out += "\\r";
  } else if (c == U'\t') {
    out += "\\t";
  } else {
    const auto code = static_cast<uint32_t>(c);
    out += code < 0x100     ? fmt::format("\\x{:02x}", code)
           : code < 0x10000 ? fmt::format("\\u{:04x}", code)
                            : fmt::format("\\U{:08x}", code);
  }
}

}  // namespace

std::string float_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  std::array<char, 40> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific);
  std::string_view text(buffer.data(), static_cast<size_t>(end.ptr - buffer.data()));
  std::string out;
  if (text.front() == '-') {
    out = "-";
    text.remove_prefix(1);
  }
  const size_t mark = text.find('e');
  int exponent = 0;
  const char* digits_of_exponent = text.data() + mark + (text[mark + 1] == '+' ? 2 : 1);
  std::from_chars(digits_of_exponent, text.data() + text.size(), exponent);
  std::string digits(1, text[0]);
  if (mark > 2) digits += text.substr(2, mark - 2);
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (count > 1) out += "." + digits.substr(1);
    return out + fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0) return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  const auto whole = static_cast<size_t>(exponent + 1);
  if (digits.size() <= whole) return out + digits + std::string(whole - digits.size(), '0') + ".0";
  return out + digits.substr(0, whole) + "." + digits.substr(whole);
}

std::string string_literal(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const bool has_double = text.find('"') != std::string_view::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  std::string out(1, quote);
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const char32_t c = next_code_point(text, at);
    if (c == static_cast<char32_t>(quote) || c == U'\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c >= 0x20 && c < 0x7F) {
      out += static_cast<char>(c);
    } else if (c < 0x80 || !is_printable(c)) {
      append_escape_sequence(out, c);
    } else {
      out += text.substr(start, at - start);
    }
  }
  return out + quote;
}

std::string repr(const Value& value) {
  std::string out;
  append_repr(out, value);
  return out;
}

std::string to_text(const Value& value) {
  if (value.is_str()) return value.text();
  if (value.is_undefined()) return "";
  return repr(value);
}

Value to_str(const Value& value) { return value.is_str() && !value.is_markup() ? value : make_str(to_text(value)); }

Value to_soft_str(const Value& value) { return value.is_str() ? value : make_str(to_text(value)); }

Value escape(const Value& value) {
  if (value.is_markup()) return value;
  std::string out;
  for (const char c : to_text(value)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return make_str(std::move(out), true);
}

}  // namespace edgewise::jinja
