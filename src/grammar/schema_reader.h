// From a JSON Schema's keywords to what they demand together. A value has to satisfy a conjunction of schemas; reading
// follows its references and allOf, so that nothing but plain keywords and choices (anyOf, oneOf) is left.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "formats/json.h"
#include "grammar/number_range.h"

namespace edgewise::grammar {

// A schema within the document.
struct SchemaPart {
  const OrderedJson* json;
  std::string pointer;
  bool local = false;  // without $ref, allOf, anyOf, oneOf, which were dealt with
};

using Conjunction = std::vector<SchemaPart>;

struct SchemaChoice {
  std::vector<SchemaPart> options;
  bool exclusive;  // oneOf
  std::string pointer;
};

struct FlatSchema {
  Conjunction parts;  // local ones
  std::vector<SchemaChoice> choices;
  bool never = false;  // `false` is among the schemas
};

enum SchemaType : uint8_t {
  kTypeNull = 1,
  kTypeBoolean = 2,
  kTypeInteger = 4,
  kTypeFraction = 8,  // numbers that are no integers
  kTypeString = 16,
  kTypeArray = 32,
  kTypeObject = 64,
  kAllTypes = 127,
};

// What local parts demand together. A schema that names no type but has keywords of some types is taken to mean those:
// {"properties": ...} is an object.
struct Shape {
  uint8_t types = kAllTypes;
  std::optional<std::vector<const OrderedJson*>> values;  // enum, const

  uint32_t min_length = 0;
  uint32_t max_length = ~uint32_t{0};
  std::vector<std::pair<std::string, std::string>> patterns;  // with the keyword's pointer
  std::vector<std::pair<std::string, std::string>> formats;

  std::vector<Bound> bounds;
  std::vector<std::pair<const OrderedJson*, std::string>> multiples;

  uint32_t min_items = 0;
  uint32_t max_items = ~uint32_t{0};
  std::vector<Conjunction> prefix;
  Conjunction items;
  bool array_keywords = false;

  std::vector<std::pair<std::string, Conjunction>> properties;
  std::vector<std::string> required;
  std::optional<Conjunction> additional;  // what additionalProperties say; none: nobody said anything
  bool object_keywords = false;
  std::string pointer;  // of the first part, for messages

  bool has_string_keywords() const {
    return min_length > 0 || max_length != ~uint32_t{0} || !patterns.empty() || !formats.empty();
  }
};

// [[noreturn]] "pointer: what".
[[noreturn]] void refuse_schema(const std::string& pointer, const std::string& what);
std::string child_pointer(const std::string& pointer, std::string_view key);

class SchemaReader {
 public:
  explicit SchemaReader(const OrderedJson& document) : document_(document) {}

  // Throws Error(kUsage) at the first keyword that is not supported.
  FlatSchema flatten(const Conjunction& conjunction) const;
  static Shape shape_of(const Conjunction& local_parts, bool guess_types);

 private:
  SchemaPart resolve(const SchemaPart& from, const OrderedJson& reference) const;
  void read_choices(const SchemaPart& part, const char* keyword, bool exclusive, FlatSchema& out) const;

  const OrderedJson& document_;
};

// The type bits of a constant.
uint8_t type_of(const OrderedJson& value);

}  // namespace edgewise::grammar
