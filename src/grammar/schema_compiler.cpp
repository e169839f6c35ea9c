#include "grammar/schema_compiler.h"

#include <algorithm>

#include "base/error.h"
#include "grammar/code_points.h"

namespace edgewise::grammar {

void SchemaCompiler::prepare() {
  colon_ = pool_.concat(pool_.literal(":"), text_.space);
  comma_ = pool_.concat(pool_.literal(","), text_.space);
  close_object_ = pool_.concat(text_.space, pool_.literal("}"));
  close_array_ = pool_.concat(text_.space, pool_.literal("]"));
  if (!document_.is_object() && !document_.is_boolean())
    refuse_schema("", "expected a schema: an object, true or false");
}

Graph SchemaCompiler::compile() {
  prepare();
  const RuleId root = graph_.add_rule();
  graph_.set_start(root, document(Graph::kReturn));
  return std::move(graph_);
}

Graph SchemaCompiler::compile_within_text(const ValueFrame& frame) {
  prepare();
  const RuleId root = graph_.add_rule();
  const Regex text = pool_.star(utf8_class(pool_, CodePoints::all()));
  const NodeId loop = graph_.split({});
  if (!frame.before.empty()) {
    const Regex marker = pool_.literal(frame.before);
    const Regex plain = pool_.both({text, pool_.complement(pool_.concat({text, marker, text}))});
    const NodeId end = graph_.terminal(pool_.concat(text_.space, pool_.literal(frame.after)), loop);
    const NodeId framed = graph_.terminal(pool_.concat({plain, marker, text_.space}), document(end));
    graph_.set_options(loop, {graph_.terminal(plain, Graph::kReturn), framed});
    graph_.set_start(root, loop);
    return std::move(graph_);
  }
  const Regex space = pool_.star(pool_.any_of({" ", "\t", "\r", "\n"}));
  const Regex like_json = pool_.concat({space, pool_.any_of({"{", "["}), text});
  const NodeId plain = graph_.terminal(pool_.both({text, pool_.complement(like_json)}), Graph::kReturn);
  const NodeId another = graph_.terminal(pool_.concat(pool_.literal(frame.between), text_.space), document(loop));
  graph_.set_options(loop, {Graph::kReturn, frame.between.empty() ? graph_.dead_end() : another});
  graph_.set_start(root, graph_.split({plain, graph_.terminal(text_.space, document(loop))}));
  return std::move(graph_);
}

NodeId SchemaCompiler::value(const Conjunction& schema, NodeId next) {
  Value& compiled = compile_value(schema);
  if (compiled.done && !compiled.is_rule) return graph_.terminal(compiled.scalars, next);
  if (!compiled.rule) compiled.rule = graph_.add_rule();
  return graph_.call(*compiled.rule, next);
}

SchemaCompiler::Value& SchemaCompiler::compile_value(const Conjunction& schema) {
  Key key;
  for (const SchemaPart& part : schema) {
    const std::pair entry{part.json, part.local};
    if (std::ranges::count(key, entry) == 0) key.push_back(entry);
  }
  auto& slot = values_[key];
  if (slot != nullptr) return *slot;
  const std::string pointer = schema.empty() ? "" : schema[0].pointer;
  if (++depth_ > kMaxDepth) refuse_schema(pointer, "schemas are nested too deeply");
  if (values_.size() > kMaxValues) refuse_schema(pointer, "the schema is too large");
  slot = std::make_unique<Value>();
  Value& out = *slot;

  const FlatSchema flat = reader_.flatten(schema);
  std::vector<Regex> scalars;
  std::vector<NodeId> nodes;
  if (!flat.never && flat.choices.empty()) add_shape(flat.parts, scalars, nodes);
  if (!flat.never && !flat.choices.empty()) add_alternatives(flat, scalars, nodes);
  out.scalars = pool_.either(std::move(scalars));
  out.is_rule = !nodes.empty() || out.rule.has_value();
  out.done = true;
  if (out.is_rule) {
    if (!out.rule) out.rule = graph_.add_rule();
    if (out.scalars != kNothing) nodes.push_back(graph_.terminal(out.scalars, Graph::kReturn));
    graph_.set_start(*out.rule, graph_.split(std::move(nodes)));
  }
  --depth_;
  return out;
}

// Every way to choose one alternative of each anyOf and oneOf, together with the keywords beside them.
void SchemaCompiler::add_alternatives(const FlatSchema& flat, std::vector<Regex>& scalars, std::vector<NodeId>& nodes) {
  size_t count = 1;
  for (const SchemaChoice& choice : flat.choices) {
    count *= choice.options.size();
    if (count > kMaxAlternatives) refuse_schema(choice.pointer, "too many combinations of alternatives");
    if (choice.exclusive) check_exclusive(choice);
  }
  for (size_t index = 0; index < count; ++index) {
    Conjunction schema = flat.parts;
    size_t rest = index;
    for (const SchemaChoice& choice : flat.choices) {
      schema.push_back(choice.options[rest % choice.options.size()]);
      rest /= choice.options.size();
    }
    // A part that only holds the choice says nothing more, and would make equal schemas look different.
    std::erase_if(schema, [](const SchemaPart& part) {
      return part.local && part.json->is_object() && part.json->size() == 1 &&
             (part.json->contains("anyOf") || part.json->contains("oneOf"));
    });
    const Value& alternative = compile_value(schema);
    if (alternative.done && !alternative.is_rule) {
      scalars.push_back(alternative.scalars);
    } else {
      nodes.push_back(value(schema, Graph::kReturn));
    }
  }
}

void SchemaCompiler::add_shape(const Conjunction& parts, std::vector<Regex>& scalars, std::vector<NodeId>& nodes) {
  const Shape shape = SchemaReader::shape_of(parts, true);
  if (shape.values) {
    add_values(shape, scalars, nodes);
    return;
  }
  scalars.push_back(scalars_of(pool_, text_, shape));
  if (shape.types & kTypeArray) nodes.push_back(array(shape));
  if (shape.types & kTypeObject) nodes.push_back(object(shape));
}

void SchemaCompiler::add_values(const Shape& shape, std::vector<Regex>& scalars, std::vector<NodeId>& nodes) {
  std::vector<std::string> texts;
  for (const OrderedJson* constant_value : *shape.values) {
    const uint8_t type = type_of(*constant_value);
    if ((type & shape.types) == 0) continue;
    if (type == kTypeObject || type == kTypeArray) {
      const bool restricted = type == kTypeObject ? shape.object_keywords : shape.array_keywords;
      if (restricted) refuse_schema(shape.pointer, "enum or const with objects or arrays beside keywords for them");
      nodes.push_back(constant(*constant_value, Graph::kReturn));
    } else if (admits(pool_, text_, shape, *constant_value)) {
      texts.push_back(text_of_constant(*constant_value));
    }
  }
  scalars.push_back(pool_.any_of(std::move(texts)));
}

NodeId SchemaCompiler::constant(const OrderedJson& json, NodeId next) {
  if (++depth_ > kMaxDepth) refuse_schema("", "a constant is nested too deeply");
  NodeId at = next;
  const Regex open = pool_.concat(pool_.literal(json.is_object() ? "{" : "["), text_.space);
  if (json.is_structured()) {
    at = graph_.terminal(json.is_object() ? close_object_ : close_array_, next);
    if (json.empty()) at = graph_.terminal(pool_.literal(json.is_object() ? "}" : "]"), next);
    std::vector<std::pair<std::string, const OrderedJson*>> members;
    for (const auto& [name, member] : json.items()) members.emplace_back(name, &member);
    for (size_t i = members.size(); i > 0; --i) {
      at = constant(*members[i - 1].second, at);
      if (json.is_object()) at = graph_.terminal(key(members[i - 1].first), at);
      if (i > 1) at = graph_.terminal(comma_, at);
    }
    at = graph_.terminal(open, at);
  } else {
    at = graph_.terminal(pool_.literal(text_of_constant(json)), next);
  }
  --depth_;
  return at;
}

NodeId SchemaCompiler::array(const Shape& shape) {
  const uint32_t min = shape.min_items;
  const uint32_t max = shape.max_items;
  if (min > max) return graph_.dead_end();
  const NodeId close = graph_.terminal(close_array_, Graph::kReturn);
  const auto prefix = static_cast<uint32_t>(std::min<size_t>(shape.prefix.size(), max));
  // What follows `done` elements, back from the last one that has a schema of its own.
  const uint32_t fixed = std::max<uint32_t>(prefix, std::min<uint32_t>(max, 1));
  const auto element = [&](uint32_t index) -> const Conjunction& {
    return index < shape.prefix.size() ? shape.prefix[index] : shape.items;
  };
  const uint32_t more_max = max == ~uint32_t{0} ? kUnbounded : max - fixed;
  const uint32_t more_min = min > fixed ? min - fixed : 0;
  NodeId at = close;
  if (more_max > 0) {
    const NodeId body = graph_.terminal(comma_, value(shape.items, Graph::kReturn));
    at = graph_.repeat(body, more_min, more_max, close);
  }
  for (uint32_t done = fixed; done > 0; --done) {
    // `at` follows done elements; now comes the place before the last of them.
    NodeId with = value(element(done - 1), at);
    if (done > 1) {
      with = graph_.terminal(comma_, with);
      at = done - 1 >= min ? graph_.split({close, with}) : with;
    } else {
      at = with;
    }
  }
  const NodeId empty = graph_.terminal(pool_.literal("]"), Graph::kReturn);
  if (fixed == 0) at = empty;
  if (fixed > 0 && min == 0) at = graph_.split({empty, at});
  return graph_.terminal(pool_.concat(pool_.literal("["), text_.space), at);
}

NodeId SchemaCompiler::object(const Shape& shape) {
  std::vector<std::pair<std::string, Conjunction>> members = shape.properties;
  for (const std::string& name : shape.required) {
    const bool listed = std::ranges::any_of(members, [&](const auto& member) { return member.first == name; });
    if (!listed) members.emplace_back(name, shape.additional.value_or(Conjunction{}));
  }
  std::optional<Conjunction> others = shape.additional;
  if (!others && (members.empty() || additional_properties_)) others.emplace();
  return object_members(members, shape.required, others);
}

// The keys that are none of the members'. The colon is a terminal of its own, so that within the key the lexer is in
// the states of any string, whose tokens are known.
Regex SchemaCompiler::other_key(const std::vector<std::pair<std::string, Conjunction>>& members) {
  std::vector<std::string> names;
  for (const auto& [name, schema] : members) names.push_back(json_spelling(name) + "\"");
  const Regex any = pool_.concat(pool_.star(text_.key_unit), text_.quote);
  const Regex rest = names.empty() ? any : pool_.both({any, pool_.complement(pool_.any_of(std::move(names)))});
  return pool_.concat(text_.quote, rest);
}

// Two ways through the members in order: `first` while nothing was written, `next` behind a comma. Optional members may
// be skipped in both.
NodeId SchemaCompiler::object_members(const std::vector<std::pair<std::string, Conjunction>>& members,
                                      const std::vector<std::string>& required,
                                      const std::optional<Conjunction>& others) {
  const NodeId close = graph_.terminal(close_object_, Graph::kReturn);
  const NodeId empty = graph_.terminal(pool_.literal("}"), Graph::kReturn);
  NodeId first = empty;
  NodeId after = close;              // behind a member: the end, or a comma and more
  std::vector<NodeId> behind_comma;  // what may follow a comma
  bool can_close = true;             // all required members are written
  if (others) {
    const NodeId loop = graph_.split({});
    const NodeId pair = graph_.terminal(other_key(members), graph_.terminal(colon_, value(*others, loop)));
    graph_.set_options(loop, {close, graph_.terminal(comma_, pair)});
    first = graph_.split({empty, pair});
    after = loop;
    behind_comma = {pair};
  }
  for (size_t i = members.size(); i > 0; --i) {
    const auto& [name, schema] = members[i - 1];
    const NodeId pair = graph_.terminal(key(name), value(schema, after));
    if (std::ranges::count(required, name) > 0) {
      can_close = false;
      first = pair;
      behind_comma = {pair};
    } else {
      first = graph_.split({pair, first});
      behind_comma = {pair, graph_.split(std::move(behind_comma))};
    }
    const NodeId pairs = graph_.split(behind_comma);
    const NodeId comma = graph_.terminal(comma_, pairs);
    after = can_close ? graph_.split({close, comma}) : comma;
    behind_comma = {pairs};
  }
  return graph_.terminal(pool_.concat(pool_.literal("{"), text_.space), first);
}

}  // namespace edgewise::grammar
