// Reads config.json and remembers which fields were read: a field nobody understood is an error, not a guess.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "formats/json.h"

namespace edgewise {

class ConfigReader {
 public:
  ConfigReader(const Json& config, std::string where) : view_(config, std::move(where)), config_(config) {}

  bool has(const std::string& key) { return note(key), view_.has(key); }
  int64_t integer(const std::string& key) { return note(key), view_.integer(key); }
  int64_t integer(const std::string& key, int64_t fallback) { return note(key), view_.integer(key, fallback); }
  // Throws Error(kBadFile) unless 1 <= value <= 2^31.
  int64_t size(const std::string& key);
  int64_t size(const std::string& key, int64_t fallback) { return has(key) ? size(key) : fallback; }
  double number(const std::string& key) { return note(key), view_.number(key); }
  double number(const std::string& key, double fallback) { return note(key), view_.number(key, fallback); }
  bool boolean(const std::string& key, bool fallback) { return note(key), view_.boolean(key, fallback); }
  std::string string(const std::string& key, const std::string& fallback) {
    return note(key), view_.string(key, fallback);
  }
  std::vector<double> numbers(const std::string& key) { return note(key), view_.numbers(key); }
  JsonView object(const std::string& key) { return note(key), view_.at(key); }
  const Json& raw(const std::string& key) { return note(key), view_.at(key).value(); }

  // Throws Error(kUnsupported) unless the field is absent, null or equal to `value`.
  void require(const std::string& key, const Json& value);
  // Throws Error(kUnsupported) naming the first field that was not read and that is not known to be without
  // influence on inference. Absent, null and false count as "not used".
  void check_all_read() const;
  const std::string& where() const { return view_.where(); }
  const JsonView& view() const { return view_; }

 private:
  void note(const std::string& key) { read_.insert(key); }

  JsonView view_;
  const Json& config_;
  std::set<std::string> read_;
};

}  // namespace edgewise
