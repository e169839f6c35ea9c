// Methods and attributes of strings, lists, tuples, dictionaries and numbers.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include "text/jinja/value.h"

namespace edgewise::jinja {

// Matches arguments with parameter names as a Python signature does; throws TypeError.
class Signature {
 public:
  // Parameters before `required` must be given; those before `positional_only` can't be named.
  Signature(std::string_view function, const Args& args, std::initializer_list<std::string_view> names, size_t required,
            size_t positional_only = 0);

  // Null when not given.
  const Value* operator[](size_t index) const { return values_[index]; }
  Value get(size_t index, Value otherwise) const { return values_[index] ? *values_[index] : otherwise; }
  int64_t integer(size_t index, int64_t otherwise) const;
  bool boolean(size_t index, bool otherwise) const;

 private:
  std::vector<const Value*> values_;
};

using Method = Value (*)(const Value& self, const Args& args);
struct NamedMethod {
  std::string_view name;
  Method method;
};

Method find_string_method(std::string_view name);
Method find_text_search_method(std::string_view name);
std::optional<Value> builtin_attribute(const Value& object, const std::string& name);
// What the immutable sandbox hides: whatever changes its object, and names with two underscores in front.
bool is_unsafe_attribute(const Value& object, std::string_view name);

enum class DictPart { kKeys, kValues, kItems };
Value make_dict_view(const DictPtr& dict, DictPart part);
// Splits at white space, or at `separator`; at most `limit` cuts unless negative.
std::vector<std::string> split_text(std::string_view text, const std::string* separator, int64_t limit);
std::vector<std::string> split_lines(std::string_view text, bool keep_ends);
// Python's strip(): white space, or any of the characters given.
std::string_view strip_text(std::string_view text, const Value* characters, bool left, bool right);
std::string replace_text(const std::string& text, const std::string& old, const std::string& with, int64_t limit);

}  // namespace edgewise::jinja
