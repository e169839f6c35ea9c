#include "grammar/schema_keywords.h"

#include <algorithm>

#include "base/error.h"

namespace edgewise::grammar {
namespace {

constexpr size_t kMaxProperties = 5000;
constexpr size_t kMaxValues = 20000;
constexpr size_t kMaxComparisons = 1000000;

bool is_one_of(std::string_view key, std::initializer_list<std::string_view> list) {
  return std::ranges::find(list, key) != list.end();
}

bool is_annotation(std::string_view key) {
  return is_one_of(key, {"title", "description", "default", "examples", "$schema", "$id", "$comment", "deprecated",
                         "readOnly", "writeOnly", "$defs", "definitions"});
}

bool is_constraint(std::string_view key) {
  return is_one_of(key, {"type",
                         "enum",
                         "const",
                         "minLength",
                         "maxLength",
                         "pattern",
                         "format",
                         "minimum",
                         "maximum",
                         "exclusiveMinimum",
                         "exclusiveMaximum",
                         "multipleOf",
                         "items",
                         "prefixItems",
                         "minItems",
                         "maxItems",
                         "properties",
                         "required",
                         "additionalProperties",
                         "$ref",
                         "allOf",
                         "anyOf",
                         "oneOf"});
}

// Keywords that are fine as long as they demand nothing.
bool demands_nothing(std::string_view key, const OrderedJson& value) {
  if (key == "uniqueItems") return value == false;
  if (key == "minProperties") return value == 0;
  return false;
}

// Reads one local part into a shape.
class ShapeReader {
 public:
  ShapeReader(const SchemaPart& part, Shape& shape) : json_(*part.json), pointer_(part.pointer), shape_(shape) {}

  void read() {
    if (json_.contains("type")) read_type();
    read_values();
    read_string();
    read_number();
    read_array();
    read_object();
  }

  // The types whose keywords are there.
  uint8_t hints() const {
    uint8_t types = 0;
    for (const auto& [key, value] : json_.items()) {
      if (is_one_of(key, {"minLength", "maxLength", "pattern", "format"})) types |= kTypeString;
      if (is_one_of(key, {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})) {
        types |= kTypeInteger | kTypeFraction;
      }
      if (is_one_of(key, {"items", "prefixItems", "minItems", "maxItems"})) types |= kTypeArray;
      if (is_one_of(key, {"properties", "required", "additionalProperties"})) types |= kTypeObject;
    }
    return types;
  }

 private:
  std::string at(const char* key) const { return child_pointer(pointer_, key); }
  const OrderedJson* find(const char* key) const {
    const auto found = json_.find(key);
    return found == json_.end() ? nullptr : &*found;
  }
  SchemaPart schema(const OrderedJson& json, std::string pointer) const {
    if (!json.is_object() && !json.is_boolean()) refuse_schema(pointer, "expected a schema: an object, true or false");
    return {&json, std::move(pointer)};
  }

  uint8_t read_type_name(const OrderedJson& name, const std::string& pointer) const {
    constexpr std::pair<std::string_view, uint8_t> kNames[] = {
        {"null", kTypeNull},       {"boolean", kTypeBoolean},
        {"integer", kTypeInteger}, {"number", kTypeInteger | kTypeFraction},
        {"string", kTypeString},   {"array", kTypeArray},
        {"object", kTypeObject}};
    for (const auto& [known, bits] : kNames) {
      if (name.is_string() && name.get_ref<const std::string&>() == known) return bits;
    }
    refuse_schema(pointer, fmt::format("expected a type's name, found {}", name.dump()));
  }

  void read_type() {
    const OrderedJson& type = json_.at("type");
    if (!type.is_array()) {
      shape_.types &= read_type_name(type, at("type"));
      return;
    }
    uint8_t types = 0;
    for (size_t i = 0; i < type.size(); ++i) types |= read_type_name(type[i], fmt::format("{}/{}", at("type"), i));
    shape_.types &= types;
  }

  void restrict_values(std::vector<const OrderedJson*> values) {
    if (values.size() > kMaxValues) refuse_schema(at("enum"), fmt::format("more than {} values", kMaxValues));
    if (shape_.values) {
      if (values.size() * shape_.values->size() > kMaxComparisons)
        refuse_schema(pointer_, "too many values to compare");
      const auto& before = *shape_.values;
      std::erase_if(values, [&](const OrderedJson* value) {
        return std::ranges::none_of(before, [&](const OrderedJson* other) { return same_value(*value, *other); });
      });
    }
    shape_.values = std::move(values);
  }

  // Regardless of the order of properties.
  static bool same_value(const OrderedJson& left, const OrderedJson& right) { return Json(left) == Json(right); }

  void read_values() {
    if (const OrderedJson* list = find("enum")) {
      if (!list->is_array()) refuse_schema(at("enum"), "expected an array");
      std::vector<const OrderedJson*> values;
      for (const OrderedJson& value : *list) values.push_back(&value);
      restrict_values(std::move(values));
    }
    if (const OrderedJson* value = find("const")) restrict_values({value});
  }

  uint32_t count(const char* key, uint32_t fallback) const {
    const OrderedJson* value = find(key);
    if (value == nullptr) return fallback;
    const bool whole =
        value->is_number_float() &&
        value->get<double>() == static_cast<double>(static_cast<uint32_t>(std::clamp(value->get<double>(), 0.0, 4e9)));
    if (!value->is_number_unsigned() && !whole)
      refuse_schema(at(key), fmt::format("expected a count, found {}", value->dump()));
    const double number = value->get<double>();
    return number > 4e9 ? ~uint32_t{0} - 1 : static_cast<uint32_t>(number);
  }

  void read_string() {
    shape_.min_length = std::max(shape_.min_length, count("minLength", 0));
    shape_.max_length = std::min(shape_.max_length, count("maxLength", ~uint32_t{0}));
    const auto read = [&](const char* key, auto& list) {
      const OrderedJson* value = find(key);
      if (value == nullptr) return;
      if (!value->is_string()) refuse_schema(at(key), "expected a string");
      list.emplace_back(value->get<std::string>(), at(key));
    };
    read("pattern", shape_.patterns);
    read("format", shape_.formats);
  }

  void read_number() {
    const auto bound = [&](const char* key, bool lower, bool strict) {
      const OrderedJson* value = find(key);
      if (value == nullptr) return;
      if (!value->is_number()) refuse_schema(at(key), fmt::format("expected a number, found {}", value->dump()));
      shape_.bounds.push_back({decimal_of(*value), lower, strict});
    };
    bound("minimum", true, false);
    bound("exclusiveMinimum", true, true);
    bound("maximum", false, false);
    bound("exclusiveMaximum", false, true);
    if (const OrderedJson* value = find("multipleOf")) {
      if (!value->is_number() || value->get<double>() <= 0)
        refuse_schema(at("multipleOf"), "expected a positive number");
      shape_.multiples.emplace_back(value, at("multipleOf"));
    }
  }

  // The schema of element `index` as far as this part of an earlier read tells.
  static Conjunction element(const Shape& shape, size_t index) {
    return index < shape.prefix.size() ? shape.prefix[index] : shape.items;
  }

  void read_array() {
    const uint8_t types = hints();
    shape_.array_keywords |= (types & kTypeArray) != 0;
    shape_.min_items = std::max(shape_.min_items, count("minItems", 0));
    shape_.max_items = std::min(shape_.max_items, count("maxItems", ~uint32_t{0}));
    Conjunction items;
    if (const OrderedJson* value = find("items")) items.push_back(schema(*value, at("items")));
    std::vector<Conjunction> prefix;
    if (const OrderedJson* list = find("prefixItems")) {
      if (!list->is_array() || list->empty()) refuse_schema(at("prefixItems"), "expected an array of schemas");
      for (size_t i = 0; i < list->size(); ++i) {
        prefix.push_back({schema((*list)[i], fmt::format("{}/{}", at("prefixItems"), i))});
      }
    }
    const size_t length = std::max(prefix.size(), shape_.prefix.size());
    std::vector<Conjunction> merged;
    for (size_t i = 0; i < length; ++i) {
      merged.push_back(element(shape_, i));
      const Conjunction& mine = i < prefix.size() ? prefix[i] : items;
      merged.back().insert(merged.back().end(), mine.begin(), mine.end());
    }
    shape_.prefix = std::move(merged);
    shape_.items.insert(shape_.items.end(), items.begin(), items.end());
  }

  void read_object() {
    shape_.object_keywords |= (hints() & kTypeObject) != 0;
    if (const OrderedJson* list = find("required")) {
      if (!list->is_array()) refuse_schema(at("required"), "expected an array of strings");
      for (const OrderedJson& name : *list) {
        if (!name.is_string()) refuse_schema(at("required"), "expected an array of strings");
        if (std::ranges::count(shape_.required, name.get<std::string>()) == 0) shape_.required.push_back(name);
      }
    }
    std::optional<SchemaPart> others;
    if (const OrderedJson* value = find("additionalProperties")) others = schema(*value, at("additionalProperties"));
    const OrderedJson* own = find("properties");
    if (own != nullptr && !own->is_object()) refuse_schema(at("properties"), "expected an object");
    if (shape_.properties.size() + (own != nullptr ? own->size() : 0) > kMaxProperties) {
      refuse_schema(pointer_, fmt::format("more than {} properties", kMaxProperties));
    }
    for (auto& [name, conjunction] : shape_.properties) {
      if (own != nullptr && own->contains(name)) continue;
      if (others) conjunction.push_back(*others);  // declared elsewhere, so it is one of the others here
    }
    if (own != nullptr) {
      for (const auto& [name, value] : own->items())
        add_property(name, schema(value, child_pointer(at("properties"), name)));
    }
    if (others) {
      if (!shape_.additional) shape_.additional.emplace();
      shape_.additional->push_back(*others);
    }
  }

  void add_property(const std::string& name, SchemaPart part) {
    const auto found = std::ranges::find(shape_.properties, name, &std::pair<std::string, Conjunction>::first);
    if (found != shape_.properties.end()) {
      found->second.push_back(std::move(part));
      return;
    }
    Conjunction conjunction = shape_.additional.value_or(Conjunction{});
    conjunction.push_back(std::move(part));
    shape_.properties.emplace_back(name, std::move(conjunction));
  }

  const OrderedJson& json_;
  const std::string& pointer_;
  Shape& shape_;
};

}  // namespace

void check_keywords(const SchemaPart& part) {
  for (const auto& [key, value] : part.json->items()) {
    if (is_annotation(key) || is_constraint(key) || demands_nothing(key, value)) continue;
    refuse_schema(child_pointer(part.pointer, key), "the keyword is not supported");
  }
}

uint8_t read_keywords(const SchemaPart& part, Shape& shape) {
  ShapeReader reader(part, shape);
  reader.read();
  return reader.hints();
}

}  // namespace edgewise::grammar
