// JSON Schema (draft 2020-12) to a grammar.
//
// Supported: type, enum, const; properties, required, additionalProperties; items, prefixItems, minItems, maxItems;
// minLength, maxLength, pattern, format (formats.cpp); minimum, maximum, exclusiveMinimum, exclusiveMaximum; multipleOf
// up to 1000 and powers of ten below one; allOf, anyOf, oneOf where its alternatives exclude each other; $ref within
// the document, recursion included. Annotations are ignored, every other keyword is refused.
//
// Texts: properties in the schema's order, first those of the keywords, then others; between tokens nothing, a space,
// or a line break and up to 40 spaces (20 tabs), behind { [ , : and before } ] only; numbers as
// in json_text.h.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "formats/json.h"
#include "grammar/constraint.h"
#include "grammar/graph.h"
#include "grammar/json_text.h"
#include "grammar/schema_reader.h"

namespace edgewise::grammar {

class SchemaCompiler {
 public:
  SchemaCompiler(RegexPool& pool, const JsonText& text, const OrderedJson& document, bool additional_properties)
      : pool_(pool),
        text_(text),
        reader_(document),
        document_(document),
        additional_properties_(additional_properties) {}

  // Throw Error(kUsage) naming the JSON pointer.
  Graph compile();
  // Any text with values of the schema in it (ValueFrame).
  Graph compile_within_text(const ValueFrame& frame);

 private:
  // A scalar is a regex, anything else a rule.
  struct Value {
    bool done = false;
    Regex scalars = kNothing;
    std::optional<RuleId> rule;  // of a value under way: asked for by a recursion
    bool is_rule = false;
  };
  using Key = std::vector<std::pair<const OrderedJson*, bool>>;
  static constexpr int kMaxDepth = 300;
  static constexpr size_t kMaxValues = 20000;
  static constexpr size_t kMaxAlternatives = 1000;
  static constexpr size_t kMaxProofSteps = 20000;

  void prepare();
  NodeId document(NodeId next) { return value({{&document_, ""}}, next); }
  NodeId value(const Conjunction& schema, NodeId next);
  Value& compile_value(const Conjunction& schema);
  void add_shape(const Conjunction& parts, std::vector<Regex>& scalars, std::vector<NodeId>& nodes);
  void add_alternatives(const FlatSchema& flat, std::vector<Regex>& scalars, std::vector<NodeId>& nodes);
  void add_values(const Shape& shape, std::vector<Regex>& scalars, std::vector<NodeId>& nodes);

  NodeId object(const Shape& shape);
  NodeId object_members(const std::vector<std::pair<std::string, Conjunction>>& members,
                        const std::vector<std::string>& required, const std::optional<Conjunction>& others);
  Regex other_key(const std::vector<std::pair<std::string, Conjunction>>& members);
  NodeId array(const Shape& shape);
  NodeId constant(const OrderedJson& json, NodeId next);

  Regex key(std::string_view name) { return pool_.concat({quoted_literal(pool_, name), colon_}); }

  // schema_choice.cpp: whether no value satisfies both, as far as that is easy to see.
  bool exclude_each_other(const Conjunction& left, const Conjunction& right, int depth);
  bool objects_exclude_each_other(const Shape& left, const Shape& right, int depth);
  void check_exclusive(const SchemaChoice& choice);
  uint8_t possible_types(const Conjunction& schema, int depth);

  RegexPool& pool_;
  const JsonText& text_;
  SchemaReader reader_;
  const OrderedJson& document_;
  bool additional_properties_;
  Graph graph_;
  Regex colon_ = kNothing;
  Regex comma_ = kNothing;
  Regex close_object_ = kNothing;
  Regex close_array_ = kNothing;
  std::map<Key, std::unique_ptr<Value>> values_;
  int depth_ = 0;
  size_t proof_steps_ = 0;
};

// schema_scalars.cpp: all scalars that the shape allows, apart from its `values`; kNothing for none.
Regex scalars_of(RegexPool& pool, const JsonText& text, const Shape& shape);
// A scalar constant as JSON text; equal ones have equal texts.
std::string text_of_constant(const OrderedJson& constant);
// Whether a scalar constant satisfies the shape's other keywords.
bool admits(RegexPool& pool, const JsonText& text, const Shape& shape, const OrderedJson& constant);

}  // namespace edgewise::grammar
