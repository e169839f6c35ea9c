// JSON documents: nlohmann/json behind an access that names the file and the field in every error.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace edgewise {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

// Parses text; `source` stands in error messages. Rejects invalid UTF-8, nesting over 512 levels, and trailing text.
// Throws Error(kBadFile).
Json parse_json(std::string_view text, const std::string& source);
Json read_json_file(const std::filesystem::path& path);
// Keeps the order of keys, as templates that print dictionaries need.
OrderedJson parse_ordered_json(std::string_view text, const std::string& source);

// A JSON object together with where it came from ("config.json: rope_parameters").
class JsonView {
 public:
  JsonView(const Json& value, std::string where) : value_(value), where_(std::move(where)) {}

  const Json& value() const { return value_; }
  const std::string& where() const { return where_; }
  bool has(const std::string& key) const;     // present and not null
  JsonView at(const std::string& key) const;  // throws Error(kBadFile) when absent

  int64_t integer(const std::string& key) const;
  int64_t integer(const std::string& key, int64_t fallback) const;
  double number(const std::string& key) const;
  double number(const std::string& key, double fallback) const;
  bool boolean(const std::string& key, bool fallback) const;
  std::string string(const std::string& key) const;
  std::string string(const std::string& key, const std::string& fallback) const;
  std::vector<double> numbers(const std::string& key) const;

  // Throws Error(kBadFile): "config.json: hidden_size: expected a positive integer, found "big"".
  [[noreturn]] void reject(const std::string& key, std::string_view expected) const;

 private:
  const Json& value_;
  std::string where_;
};

}  // namespace edgewise
