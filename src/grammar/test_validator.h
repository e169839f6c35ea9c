// For tests: a small JSON Schema validator that shares nothing with the compiler. Keywords one by one, as the
// specification has them, on parsed values.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <regex>
#include <string>

#include "formats/json.h"

namespace edgewise::grammar_test {

class Validator {
 public:
  explicit Validator(const Json& root) : root_(root) {}

  // Empty when `value` satisfies the schema, otherwise what is wrong.
  std::string check(const Json& value) const { return check(root_, value, 0); }

 private:
  static size_t length(const std::string& text) {
    return static_cast<size_t>(std::ranges::count_if(text, [](char c) { return (c & 0xC0) != 0x80; }));
  }

  static bool is_type(const Json& value, const std::string& type) {
    if (type == "null") return value.is_null();
    if (type == "boolean") return value.is_boolean();
    if (type == "string") return value.is_string();
    if (type == "array") return value.is_array();
    if (type == "object") return value.is_object();
    if (type == "number") return value.is_number();
    return value.is_number_integer() || (value.is_number_float() && value == std::floor(value.get<double>()));
  }

  // Whether `pattern` is found in `text`; the standard's grammar is ECMAScript's, but it counts bytes.
  static bool found(const std::string& pattern, const std::string& text) {
    return std::regex_search(text, std::regex(pattern, std::regex::ECMAScript));
  }

  static bool is_date(const std::string& text) {
    int year = 0, month = 0, day = 0;
    if (text.size() != 10 || std::sscanf(text.c_str(), "%4d-%2d-%2d", &year, &month, &day) != 3) return false;
    const bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    const int days[] = {31, leap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    return year >= 1 && month >= 1 && month <= 12 && day >= 1 && day <= days[month - 1];
  }

  static bool is_time(const std::string& text) {
    std::smatch match;
    static const std::regex form("(\\d\\d):(\\d\\d):(\\d\\d)(\\.\\d+)?(Z|[+-](\\d\\d):(\\d\\d))");
    if (!std::regex_match(text, match, form)) return false;
    const auto below = [&](int group, int limit) { return !match[group].matched || std::stoi(match[group]) < limit; };
    return below(1, 24) && below(2, 60) && below(3, 60) && below(6, 24) && below(7, 60);
  }

  static bool is_format(const std::string& format, const std::string& text) {
    if (format == "date") return is_date(text);
    if (format == "time") return is_time(text);
    if (format == "date-time")
      return text.size() > 11 && is_date(text.substr(0, 10)) && text[10] == 'T' && is_time(text.substr(11));
    static const std::map<std::string, std::string> forms = {
        {"uuid", "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"},
        {"email", "^[^@ .][^@ ]*@[a-zA-Z0-9][a-zA-Z0-9.-]*$"},
        {"hostname",
         "^([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)(\\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$"},
        {"ipv4", "^((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(\\.|$)){4}$"},
        {"ipv6", "^[0-9a-fA-F:]{2,39}$"},
        {"uri", "^[a-zA-Z][a-zA-Z0-9+.-]*://[^ \"<>\\\\^`{|}]+$"},
        {"duration", "^P(\\d+W|(\\d+Y)?(\\d+M)?(\\d+D)?(T(\\d+H)?(\\d+M)?(\\d+S)?)?)$"}};
    return found(forms.at(format), text);
  }

  const Json& resolve(const std::string& reference) const { return root_.at(Json::json_pointer(reference.substr(1))); }

  std::string check(const Json& schema, const Json& value, int depth) const {
    if (schema.is_boolean()) return schema.get<bool>() ? "" : "nothing is allowed here";
    if (depth > 2000) return "too deep";
    std::string wrong = check_choices(schema, value, depth);
    if (wrong.empty()) wrong = check_any(schema, value);
    if (wrong.empty() && value.is_number()) wrong = check_number(schema, value);
    if (wrong.empty() && value.is_string()) wrong = check_string(schema, value.get<std::string>());
    if (wrong.empty() && value.is_array()) wrong = check_array(schema, value, depth);
    if (wrong.empty() && value.is_object()) wrong = check_object(schema, value, depth);
    return wrong;
  }

  std::string check_choices(const Json& schema, const Json& value, int depth) const {
    if (schema.contains("$ref")) {
      const std::string wrong = check(resolve(schema.at("$ref")), value, depth + 1);
      if (!wrong.empty()) return wrong;
    }
    for (const Json& part : schema.value("allOf", Json::array())) {
      const std::string wrong = check(part, value, depth + 1);
      if (!wrong.empty()) return wrong;
    }
    for (const char* keyword : {"anyOf", "oneOf"}) {
      if (!schema.contains(keyword)) continue;
      int count = 0;
      for (const Json& part : schema.at(keyword)) count += check(part, value, depth + 1).empty() ? 1 : 0;
      const bool one = std::string(keyword) == "oneOf";
      if (count == 0 || (one && count != 1))
        return std::string(keyword) + " is satisfied " + std::to_string(count) + " times";
    }
    return "";
  }

  static std::string check_any(const Json& schema, const Json& value) {
    if (schema.contains("type")) {
      const Json& type = schema.at("type");
      bool some = false;
      for (const Json& name : type.is_array() ? type : Json::array({type})) some |= is_type(value, name);
      if (!some) return "type";
    }
    if (schema.contains("const") && schema.at("const") != value) return "const";
    if (schema.contains("enum") && std::ranges::count(schema.at("enum"), value) == 0) return "enum";
    return "";
  }

  static std::string check_number(const Json& schema, const Json& value) {
    const auto number = value.get<double>();
    if (schema.contains("minimum") && number < schema.at("minimum").get<double>()) return "minimum";
    if (schema.contains("maximum") && number > schema.at("maximum").get<double>()) return "maximum";
    if (schema.contains("exclusiveMinimum") && number <= schema.at("exclusiveMinimum").get<double>())
      return "exclusiveMinimum";
    if (schema.contains("exclusiveMaximum") && number >= schema.at("exclusiveMaximum").get<double>())
      return "exclusiveMaximum";
    if (schema.contains("multipleOf")) {
      const Json& step = schema.at("multipleOf");
      if (value.is_number_integer() && step.is_number_integer()) {
        if (value.get<int64_t>() % step.get<int64_t>() != 0) return "multipleOf";
      } else {
        const double quotient = number / step.get<double>();
        if (std::abs(quotient - std::round(quotient)) > 1e-6 * std::max(1.0, std::abs(quotient))) return "multipleOf";
      }
    }
    return "";
  }

  static std::string check_string(const Json& schema, const std::string& text) {
    if (schema.contains("minLength") && length(text) < schema.at("minLength").get<size_t>()) return "minLength";
    if (schema.contains("maxLength") && length(text) > schema.at("maxLength").get<size_t>()) return "maxLength";
    if (schema.contains("pattern") && !found(schema.at("pattern"), text)) return "pattern";
    if (schema.contains("format") && !is_format(schema.at("format"), text)) return "format";
    return "";
  }

  std::string check_array(const Json& schema, const Json& value, int depth) const {
    if (schema.contains("minItems") && value.size() < schema.at("minItems").get<size_t>()) return "minItems";
    if (schema.contains("maxItems") && value.size() > schema.at("maxItems").get<size_t>()) return "maxItems";
    const Json prefix = schema.value("prefixItems", Json::array());
    for (size_t i = 0; i < value.size(); ++i) {
      const bool fixed = i < prefix.size();
      if (!fixed && !schema.contains("items")) break;
      const std::string wrong = check(fixed ? prefix[i] : schema.at("items"), value[i], depth + 1);
      if (!wrong.empty()) return "[" + std::to_string(i) + "]: " + wrong;
    }
    return "";
  }

  std::string check_object(const Json& schema, const Json& value, int depth) const {
    for (const Json& name : schema.value("required", Json::array())) {
      if (!value.contains(name.get<std::string>())) return "required: " + name.get<std::string>();
    }
    const Json properties = schema.value("properties", Json::object());
    for (const auto& [name, member] : value.items()) {
      const bool listed = properties.contains(name);
      if (!listed && !schema.contains("additionalProperties")) continue;
      const std::string wrong =
          check(listed ? properties.at(name) : schema.at("additionalProperties"), member, depth + 1);
      if (!wrong.empty()) return name + ": " + wrong;
    }
    return "";
  }

  const Json& root_;
};

}  // namespace edgewise::grammar_test
