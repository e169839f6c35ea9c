// oneOf: its alternatives must exclude each other, so that a value of one is sure to be none of another's.
#include <algorithm>

#include "base/error.h"
#include "grammar/schema_compiler.h"

namespace edgewise::grammar {
namespace {

constexpr int kMaxDepthOfProof = 4;

const Conjunction* property_of(const Shape& shape, const std::string& name) {
  for (const auto& [known, schema] : shape.properties) {
    if (known == name) return &schema;
  }
  return shape.additional ? &*shape.additional : nullptr;
}

bool is_required(const Shape& shape, const std::string& name) { return std::ranges::count(shape.required, name) > 0; }

}  // namespace

uint8_t SchemaCompiler::possible_types(const Conjunction& schema, int depth) {
  if (++proof_steps_ > kMaxProofSteps) refuse_schema("", "the alternatives of oneOf take too long to be told apart");
  const FlatSchema flat = reader_.flatten(schema);
  if (flat.never) return 0;
  const Shape shape = SchemaReader::shape_of(flat.parts, false);
  uint8_t types = shape.types;
  if (shape.values) {
    uint8_t of_values = 0;
    for (const OrderedJson* value : *shape.values) of_values |= type_of(*value);
    types &= of_values;
  }
  if (depth >= kMaxDepthOfProof) return types;
  for (const SchemaChoice& choice : flat.choices) {
    uint8_t any = 0;
    for (const SchemaPart& option : choice.options) any |= possible_types({option}, depth + 1);
    types &= any;
  }
  return types;
}

// One of them requires a property which the other forbids, or which is something else there.
bool SchemaCompiler::objects_exclude_each_other(const Shape& left, const Shape& right, int depth) {
  std::vector<std::string> names = left.required;
  names.insert(names.end(), right.required.begin(), right.required.end());
  for (const std::string& name : names) {
    const Conjunction* in_left = property_of(left, name);
    const Conjunction* in_right = property_of(right, name);
    const bool forbidden = (in_left != nullptr && possible_types(*in_left, depth) == 0) ||
                           (in_right != nullptr && possible_types(*in_right, depth) == 0);
    if (forbidden) return true;
    const bool both = is_required(left, name) && is_required(right, name);
    if (both && in_left != nullptr && in_right != nullptr && exclude_each_other(*in_left, *in_right, depth + 1))
      return true;
  }
  return false;
}

bool SchemaCompiler::exclude_each_other(const Conjunction& left, const Conjunction& right, int depth) {
  const uint8_t shared = possible_types(left, 0) & possible_types(right, 0);
  if (shared == 0) return true;
  if (depth >= kMaxDepthOfProof || (shared & kTypeArray) != 0) return false;
  const FlatSchema flat_left = reader_.flatten(left);
  const FlatSchema flat_right = reader_.flatten(right);
  const Shape shape_left = SchemaReader::shape_of(flat_left.parts, false);
  const Shape shape_right = SchemaReader::shape_of(flat_right.parts, false);
  if ((shared & kTypeObject) != 0 && !objects_exclude_each_other(shape_left, shape_right, depth)) return false;
  const uint8_t scalars = shared & ~(kTypeObject | kTypeArray);
  if (scalars == 0) return true;
  const auto text_of = [&](const Shape& shape) {
    Shape only = shape;
    only.types = shape.types & scalars;
    if (!shape.values) return scalars_of(pool_, text_, only);
    std::vector<Regex> regexes;
    std::vector<NodeId> structures;
    only.object_keywords = only.array_keywords = false;
    add_values(only, regexes, structures);
    return pool_.either(std::move(regexes));
  };
  return !pool_.matches_something(pool_.both({text_of(shape_left), text_of(shape_right)}));
}

void SchemaCompiler::check_exclusive(const SchemaChoice& choice) {
  for (size_t i = 0; i < choice.options.size(); ++i) {
    for (size_t j = i + 1; j < choice.options.size(); ++j) {
      if (exclude_each_other({choice.options[i]}, {choice.options[j]}, 0)) continue;
      refuse_schema(choice.pointer, fmt::format("alternatives {} and {} may both be satisfied, which oneOf forbids; "
                                                "make them exclusive or use anyOf",
                                                i, j));
    }
  }
}

}  // namespace edgewise::grammar
