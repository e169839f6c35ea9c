#include "text/jinja/filters.h"

#include "text/jinja/failure.h"
#include "text/jinja/operators.h"
#include "text/jinja/unicode.h"

namespace edgewise::jinja {
namespace {

Value fold(const Value& value) { return value.is_str() ? make_str(to_lower(value.text())) : value; }

// The steps of a path; whole numbers become integers.
std::vector<Value> path_parts(const Value& path) {
  if (path.is_none()) return {};
  if (!path.is_str()) return {path};
  std::vector<Value> parts;
  const std::string& text = path.text();
  for (size_t start = 0;;) {
    const size_t end = std::min(text.find('.', start), text.size());
    const std::string part = text.substr(start, end - start);
    const bool number = !part.empty() && part.size() < 18 && part.find_first_not_of("0123456789") == std::string::npos;
    parts.push_back(number ? Value(static_cast<int64_t>(std::stoll(part))) : make_str(part));
    if (end == text.size()) return parts;
    start = end + 1;
  }
}

}  // namespace

Getter make_getter(const Value& path, bool fold_case, const Value& otherwise) {
  return [parts = path_parts(path), fold_case, otherwise](const Value& item) {
    Value value = item;
    for (const Value& part : parts) {
      value = get_item(value, part);
      if (value.is_undefined() && !otherwise.is_none()) value = otherwise;
    }
    return fold_case ? fold(value) : value;
  };
}

Getter make_multi_getter(const Value& paths, bool fold_case) {
  std::vector<Getter> getters;
  if (paths.is_str()) {
    const std::string& text = paths.text();
    for (size_t start = 0; start <= text.size();) {
      const size_t end = std::min(text.find(',', start), text.size());
      getters.push_back(make_getter(make_str(text.substr(start, end - start)), fold_case));
      start = end + 1;
    }
  } else {
    getters.push_back(make_getter(paths, fold_case));
  }
  return [getters = std::move(getters)](const Value& item) {
    std::vector<Value> values;
    for (const Getter& getter : getters) values.push_back(getter(item));
    return make_list(std::move(values));
  };
}

Filter find_filter(std::string_view name) {
  for (const auto find : {find_text_filter, find_number_filter, find_sequence_filter, find_selection_filter}) {
    if (const Filter filter = find(name)) return filter;
  }
  return name == "tojson" ? dump_json : nullptr;
}

Value apply_filter(const std::string& name, const Value& value, const Args& args) {
  const Filter filter = find_filter(name);
  if (filter == nullptr) runtime_error("No filter named {} found.", string_literal(name));
  Budget::step();
  return filter(value, args);
}

bool apply_test(const std::string& name, const Value& value, const Args& args) {
  const Test test = find_test(name);
  if (test == nullptr) runtime_error("No test named {} found.", string_literal(name));
  Budget::step();
  return test(value, args);
}

}  // namespace edgewise::jinja
