#include "grammar/schema_reader.h"

#include <algorithm>
#include <iterator>

#include "base/error.h"
#include "grammar/schema_keywords.h"

namespace edgewise::grammar {
namespace {

constexpr size_t kMaxParts = 1000;  // of one conjunction

std::string unescape_pointer(std::string token, const std::string& where) {
  std::string out;
  for (size_t i = 0; i < token.size(); ++i) {
    if (token[i] == '~') {
      const char next = i + 1 < token.size() ? token[++i] : ' ';
      if (next != '0' && next != '1') refuse_schema(where, "the reference is not a JSON pointer");
      out += next == '0' ? '~' : '/';
    } else if (token[i] == '%') {
      const auto digit = [](char c) {
        return c >= '0' && c <= '9'   ? c - '0'
               : c >= 'a' && c <= 'f' ? c - 'a' + 10
               : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                      : -1;
      };
      const int high = i + 2 < token.size() ? digit(token[i + 1]) : -1;
      const int low = i + 2 < token.size() ? digit(token[i + 2]) : -1;
      if (high < 0 || low < 0) refuse_schema(where, "the reference is not a JSON pointer");
      out += static_cast<char>(high * 16 + low);
      i += 2;
    } else {
      out += token[i];
    }
  }
  return out;
}

}  // namespace

void refuse_schema(const std::string& pointer, const std::string& what) {
  usage_error("{}: {}", pointer.empty() ? "/" : pointer, what);
}

std::string child_pointer(const std::string& pointer, std::string_view key) {
  std::string out = pointer + "/";
  for (const char c : key) {
    if (c == '~') {
      out += "~0";
    } else if (c == '/') {
      out += "~1";
    } else {
      out += c;
    }
  }
  return out;
}

uint8_t type_of(const OrderedJson& value) {
  switch (value.type()) {
    case OrderedJson::value_t::null:
      return kTypeNull;
    case OrderedJson::value_t::boolean:
      return kTypeBoolean;
    case OrderedJson::value_t::number_integer:
    case OrderedJson::value_t::number_unsigned:
      return kTypeInteger;
    case OrderedJson::value_t::number_float: {
      const double number = value.get<double>();
      return number == static_cast<double>(static_cast<int64_t>(std::clamp(number, -1e18, 1e18))) ? kTypeInteger
                                                                                                  : kTypeFraction;
    }
    case OrderedJson::value_t::string:
      return kTypeString;
    case OrderedJson::value_t::array:
      return kTypeArray;
    default:
      return kTypeObject;
  }
}

SchemaPart SchemaReader::resolve(const SchemaPart& from, const OrderedJson& reference) const {
  const std::string where = child_pointer(from.pointer, "$ref");
  if (!reference.is_string()) refuse_schema(where, "expected a string");
  const std::string text = reference.get<std::string>();
  if (text != "#" && !text.starts_with("#/")) {
    refuse_schema(where, fmt::format("\"{}\": only references within the schema (\"#/...\") are supported", text));
  }
  SchemaPart target{&document_, ""};
  for (size_t pos = 2; pos <= text.size() && text.size() > 1;) {
    const size_t end = std::min(text.find('/', pos), text.size());
    const std::string key = unescape_pointer(text.substr(pos, end - pos), where);
    const OrderedJson* next = nullptr;
    if (target.json->is_object() && target.json->contains(key)) next = &target.json->at(key);
    if (target.json->is_array() && !key.empty() && key.size() < 8 &&
        std::ranges::all_of(key, [](char c) { return c >= '0' && c <= '9'; })) {
      const size_t index = std::stoul(key);
      if (index < target.json->size()) next = &(*target.json)[index];
    }
    if (next == nullptr) refuse_schema(where, fmt::format("\"{}\": there is nothing", text));
    target = {next, child_pointer(target.pointer, key)};
    pos = end + 1;
  }
  if (!target.json->is_object() && !target.json->is_boolean())
    refuse_schema(where, fmt::format("\"{}\" is not a schema", text));
  return target;
}

void SchemaReader::read_choices(const SchemaPart& part, const char* keyword, bool exclusive, FlatSchema& out) const {
  const auto list = part.json->find(keyword);
  if (list == part.json->end()) return;
  SchemaChoice choice{{}, exclusive, child_pointer(part.pointer, keyword)};
  if (!list->is_array() || list->empty()) refuse_schema(choice.pointer, "expected an array of schemas");
  for (size_t i = 0; i < list->size(); ++i) {
    const std::string pointer = fmt::format("{}/{}", choice.pointer, i);
    if (!(*list)[i].is_object() && !(*list)[i].is_boolean()) {
      refuse_schema(pointer, "expected a schema: an object, true or false");
    }
    choice.options.push_back({&(*list)[i], pointer});
  }
  out.choices.push_back(std::move(choice));
}

FlatSchema SchemaReader::flatten(const Conjunction& conjunction) const {
  FlatSchema out;
  std::vector<SchemaPart> open(conjunction.rbegin(), conjunction.rend());  // the next one last
  std::vector<std::pair<const OrderedJson*, bool>> seen;
  while (!open.empty()) {
    SchemaPart part = std::move(open.back());
    open.pop_back();
    if (part.json->is_boolean()) {
      out.never |= !part.json->get<bool>();
      continue;
    }
    const std::pair key{part.json, part.local};
    if (std::ranges::count(seen, key) > 0) continue;
    seen.push_back(key);
    if (seen.size() > kMaxParts) refuse_schema(part.pointer, "too many schemas are joined here");
    check_keywords(part);
    if (!part.local) {
      read_choices(part, "anyOf", false, out);
      read_choices(part, "oneOf", true, out);
      FlatSchema joined;  // allOf has the form of a choice
      read_choices(part, "allOf", false, joined);
      for (const SchemaChoice& all : joined.choices) open.insert(open.end(), all.options.rbegin(), all.options.rend());
      if (const auto reference = part.json->find("$ref"); reference != part.json->end()) {
        open.push_back(resolve(part, *reference));
      }
      part.local = true;
    }
    out.parts.push_back(std::move(part));
  }
  return out;
}

Shape SchemaReader::shape_of(const Conjunction& local_parts, bool guess_types) {
  Shape shape;
  uint8_t hints = 0;
  for (const SchemaPart& part : local_parts) {
    if (shape.pointer.empty()) shape.pointer = part.pointer;
    hints |= read_keywords(part, shape);
  }
  const bool typed =
      std::ranges::any_of(local_parts, [](const SchemaPart& part) { return part.json->contains("type"); });
  if (guess_types && !typed && !shape.values && hints != 0) shape.types = hints;
  return shape;
}

}  // namespace edgewise::grammar
