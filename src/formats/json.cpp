#include "formats/json.h"

#include <cmath>

#include "base/error.h"
#include "base/mapped_file.h"

namespace edgewise {
namespace {

constexpr int kMaxDepth = 512;

template <typename Document>
Document parse_document(std::string_view text, const std::string& source) {
  // Nesting is bounded before anything recurses over the document.
  const auto bounded = [&](int depth, typename Document::parse_event_t, Document&) {
    if (depth > kMaxDepth) bad_file("{}: nested deeper than {} levels", source, kMaxDepth);
    return true;
  };
  try {
    return Document::parse(text.begin(), text.end(), bounded);
  } catch (const nlohmann::json::exception& error) {
    bad_file("{}: not valid JSON: {}", source, error.what());
  }
}

std::string excerpt(const Json& value) {
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

}  // namespace

Json parse_json(std::string_view text, const std::string& source) { return parse_document<Json>(text, source); }

OrderedJson parse_ordered_json(std::string_view text, const std::string& source) {
  return parse_document<OrderedJson>(text, source);
}

Json read_json_file(const std::filesystem::path& path) { return parse_json(read_text_file(path), path.string()); }

bool JsonView::has(const std::string& key) const {
  return value_.is_object() && value_.contains(key) && !value_.at(key).is_null();
}

JsonView JsonView::at(const std::string& key) const {
  if (!has(key)) bad_file("{}: the field \"{}\" is missing", where_, key);
  return {value_.at(key), where_ + ": " + key};
}

void JsonView::reject(const std::string& key, std::string_view expected) const {
  bad_file("{}: {}: expected {}, found {}", where_, key, expected,
           has(key) ? excerpt(value_.at(key)) : std::string("nothing"));
}

int64_t JsonView::integer(const std::string& key) const {
  if (!has(key)) reject(key, "an integer");
  const Json& field = value_.at(key);
  if (field.is_number_integer()) return field.get<int64_t>();
  if (field.is_number_float()) {
    const double number = field.get<double>();
    if (number == std::floor(number) && std::fabs(number) < 9e15) return static_cast<int64_t>(number);
  }
  reject(key, "an integer");
}

int64_t JsonView::integer(const std::string& key, int64_t fallback) const { return has(key) ? integer(key) : fallback; }

double JsonView::number(const std::string& key) const {
  if (!has(key) || !value_.at(key).is_number()) reject(key, "a number");
  return value_.at(key).get<double>();
}

double JsonView::number(const std::string& key, double fallback) const { return has(key) ? number(key) : fallback; }

bool JsonView::boolean(const std::string& key, bool fallback) const {
  if (!has(key)) return fallback;
  if (!value_.at(key).is_boolean()) reject(key, "true or false");
  return value_.at(key).get<bool>();
}

std::string JsonView::string(const std::string& key) const {
  if (!has(key) || !value_.at(key).is_string()) reject(key, "a string");
  return value_.at(key).get<std::string>();
}

std::string JsonView::string(const std::string& key, const std::string& fallback) const {
  return has(key) ? string(key) : fallback;
}

std::vector<double> JsonView::numbers(const std::string& key) const {
  if (!has(key) || !value_.at(key).is_array()) reject(key, "an array of numbers");
  std::vector<double> result;
  for (const Json& item : value_.at(key)) {
    if (!item.is_number()) reject(key, "an array of numbers");
    result.push_back(item.get<double>());
  }
  return result;
}

}  // namespace edgewise
