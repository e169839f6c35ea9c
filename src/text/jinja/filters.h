// The filters and tests of jinja2, found by name.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "text/jinja/value.h"

namespace edgewise::jinja {

using Filter = Value (*)(const Value& value, const Args& args);
struct NamedFilter {
  std::string_view name;
  Filter filter;
};
using Test = bool (*)(const Value& value, const Args& args);

// Null for an unknown name.
Filter find_filter(std::string_view name);
Filter find_text_filter(std::string_view name);
Filter find_number_filter(std::string_view name);
Filter find_sequence_filter(std::string_view name);
Filter find_selection_filter(std::string_view name);
Test find_test(std::string_view name);

// Throw Failure("TemplateRuntimeError") for an unknown name.
Value apply_filter(const std::string& name, const Value& value, const Args& args);
bool apply_test(const std::string& name, const Value& value, const Args& args);

// json.dumps as transformers' |tojson calls it: (ensure_ascii, indent, separators, sort_keys).
Value dump_json(const Value& value, const Args& args);

// "address.city" or 0: looks an attribute path up in an item. None gives the item itself.
using Getter = std::function<Value(const Value&)>;
Getter make_getter(const Value& path, bool fold_case, const Value& otherwise = Value());
// "a.b,c": the list of several.
Getter make_multi_getter(const Value& paths, bool fold_case);

}  // namespace edgewise::jinja
