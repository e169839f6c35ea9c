// Python's protocols: truth, length, iteration, calls, attributes and items.
#include <algorithm>

#include "text/jinja/failure.h"
#include "text/jinja/methods.h"
#include "text/jinja/operators.h"
#include "text/jinja/unicode.h"

namespace edgewise::jinja {
namespace {

Next iterate_text(const StrPtr& text) {
  return [text, at = size_t{0}](Value& out) mutable {
    if (at >= text->text.size()) return false;
    Budget::step();
    const size_t start = at;
    next_code_point(text->text, at);
    out = make_str(text->text.substr(start, at - start));
    return true;
  };
}

Next iterate_items(const SequencePtr& sequence) {
  return [sequence, at = size_t{0}](Value& out) mutable {
    if (at >= sequence->items.size()) return false;
    Budget::step();
    out = sequence->items[at++];
    return true;
  };
}

Next iterate_keys(const DictPtr& dict) {
  return [dict, at = size_t{0}](Value& out) mutable {
    if (at >= dict->items.size()) return false;
    Budget::step();
    out = dict->items[at++].first;
    return true;
  };
}

Value missing(const Value& object, const std::string& name) {
  const std::string type = object.is_none() ? "None" : type_name(object) + " object";
  return make_undefined(fmt::format("'{}' has no attribute {}", type, string_literal(name)));
}

Value unsafe(const Value& object, const std::string& name) {
  return make_undefined(
      fmt::format("access to attribute {} of '{}' object is unsafe.", string_literal(name), type_name(object)),
      "SecurityError");
}

// Python's rules for the bounds of a slice over `length` items.
struct Slice {
  int64_t start;
  int64_t step;
  int64_t count;
};

Slice resolve_slice(const Value& start, const Value& stop, const Value& step, int64_t length) {
  const auto index = [](const Value& value) {
    if (!value.is_integral()) type_error("slice indices must be integers or None or have an __index__ method");
    return value.integer();
  };
  Slice slice{0, step.is_none() ? 1 : index(step), 0};
  if (slice.step == 0) value_error("slice step cannot be zero");
  const bool forward = slice.step > 0;
  const auto bound = [&](const Value& value, int64_t otherwise) {
    if (value.is_none()) return otherwise;
    int64_t at = index(value);
    if (at < 0) at = std::max(at + length, forward ? int64_t{0} : int64_t{-1});
    return std::min(at, forward ? length : length - 1);
  };
  slice.start = bound(start, forward ? 0 : length - 1);
  const int64_t end = bound(stop, forward ? length : -1);
  const auto distance = static_cast<uint64_t>(forward ? end - slice.start : slice.start - end);
  const uint64_t stride = forward ? static_cast<uint64_t>(slice.step) : uint64_t{0} - static_cast<uint64_t>(slice.step);
  if (forward ? end > slice.start : end < slice.start) {
    slice.count = static_cast<int64_t>((distance - 1) / stride + 1);
  }
  return slice;
}

std::optional<Value> item_at(const Value& object, int64_t index) {
  if (object.is(Kind::kObject)) return object.object()->item(index);
  if (!object.is_str() && !object.is_sequence()) return std::nullopt;
  const auto size = static_cast<int64_t>(object.is_str() ? object.str().length : object.items().size());
  if (index < 0) index += size;
  if (index < 0 || index >= size) return std::nullopt;
  if (object.is_sequence()) return object.items()[static_cast<size_t>(index)];
  const std::string& text = object.text();
  size_t at = object.str().is_ascii() ? static_cast<size_t>(index) : byte_offset(text, static_cast<size_t>(index));
  const size_t start = at;
  next_code_point(text, at);
  return make_str(text.substr(start, at - start), object.is_markup());
}

}  // namespace

std::string type_name(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kStr:
      return value.is_markup() ? "Markup" : "str";
    case Kind::kList:
      return "list";
    case Kind::kTuple:
      return "tuple";
    case Kind::kDict:
      return "dict";
    case Kind::kObject:
      break;
  }
  return value.object()->type_name();
}

bool truthy(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
      return value.boolean();
    case Kind::kInt:
      return value.integer() != 0;
    case Kind::kFloat:
      return value.number() != 0;
    case Kind::kStr:
      return !value.text().empty();
    case Kind::kList:
    case Kind::kTuple:
      return !value.items().empty();
    case Kind::kDict:
      return !value.dict().items.empty();
    case Kind::kObject:
      break;
  }
  return value.object()->length().value_or(1) != 0;
}

void fail_undefined(const Value& undefined) {
  throw Failure(undefined.undefined().type, undefined.undefined().message);
}

int64_t length_of(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return 0;
    case Kind::kStr:
      return static_cast<int64_t>(value.str().length);
    case Kind::kList:
    case Kind::kTuple:
      return static_cast<int64_t>(value.items().size());
    case Kind::kDict:
      return static_cast<int64_t>(value.dict().items.size());
    case Kind::kObject:
      if (const auto length = value.object()->length()) return *length;
      [[fallthrough]];
    default:
      type_error("object of type '{}' has no len()", type_name(value));
  }
}

bool is_iterable(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kStr:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
      return true;
    case Kind::kObject:
      return value.object()->is_iterable();
    default:
      return false;
  }
}

Next iterate(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return [](Value&) { return false; };
    case Kind::kStr:
      return iterate_text(value.str_ptr());
    case Kind::kList:
    case Kind::kTuple:
      return iterate_items(value.sequence());
    case Kind::kDict:
      return iterate_keys(value.dict_ptr());
    default:
      if (!is_iterable(value)) type_error("'{}' object is not iterable", type_name(value));
      return value.object()->iterate();
  }
}

std::vector<Value> to_vector(const Value& iterable) {
  if (iterable.is_sequence()) {
    Budget::step(static_cast<int64_t>(iterable.items().size()));
    return iterable.items();
  }
  std::vector<Value> items;
  const Next next = iterate(iterable);
  for (Value item; next(item);) {
    items.push_back(std::move(item));
    Budget::check_items(items.size());
  }
  return items;
}

bool is_callable(const Value& value) { return value.is(Kind::kObject) && value.object()->is_callable(); }

Value call(const Value& function, const Args& args) {
  if (function.is_undefined()) fail_undefined(function);
  if (!is_callable(function)) type_error("'{}' object is not callable", type_name(function));
  Budget::step();
  Budget::check_stack();
  return function.object()->call(args);
}

int64_t to_index(const Value& value) {
  if (value.is_integral()) return value.integer();
  if (value.is_undefined()) fail_undefined(value);
  type_error("'{}' object cannot be interpreted as an integer", type_name(value));
}

std::optional<Value> own_attribute(const Value& object, const std::string& name) {
  if (object.is(Kind::kObject)) return object.object()->attribute(name);
  return builtin_attribute(object, name);
}

Value get_attribute(const Value& object, const std::string& name) {
  if (is_unsafe_attribute(object, name)) return unsafe(object, name);
  if (object.is_undefined()) fail_undefined(object);
  if (auto value = own_attribute(object, name)) return *std::move(value);
  if (object.is(Kind::kDict)) {
    if (const Value* value = object.dict().find(name)) return *value;
  }
  return missing(object, name);
}

Value get_item(const Value& object, const Value& key) {
  if (object.is_undefined()) fail_undefined(object);
  if (object.is(Kind::kDict) && !key.is(Kind::kList) && !key.is(Kind::kDict)) {
    try {
      if (const Value* value = object.dict().find(key)) return *value;
    } catch (const Failure& failure) {
      if (failure.type() != "TypeError") throw;  // an unhashable key is merely absent
    }
  }
  if (key.is_integral()) {
    if (auto value = item_at(object, key.integer())) return *std::move(value);
  }
  if (key.is_str()) {
    if (is_unsafe_attribute(object, key.text())) return unsafe(object, key.text());
    if (auto value = own_attribute(object, key.text())) return *std::move(value);
    return missing(object, key.text());
  }
  const std::string type = object.is_none() ? "None" : type_name(object) + " object";
  return make_undefined(fmt::format("{} has no element {}", type, repr(key)));
}

Value get_slice(const Value& object, const Value& start, const Value& stop, const Value& step) {
  if (object.is_undefined()) fail_undefined(object);
  if (object.is(Kind::kDict)) type_error("unhashable type: 'slice'");
  if (const auto text = object.is_str() ? object.str_ptr() : nullptr) {
    const Slice slice = resolve_slice(start, stop, step, static_cast<int64_t>(text->length));
    Budget::step(static_cast<int64_t>(text->text.size() / 64));
    if (text->is_ascii() && slice.step == 1) {
      return make_str(
          text->text.substr(static_cast<size_t>(slice.count > 0 ? slice.start : 0), static_cast<size_t>(slice.count)),
          text->markup);
    }
    const std::u32string code_points = decode(text->text);
    std::u32string out;
    for (int64_t i = 0; i < slice.count; ++i) {
      out.push_back(code_points[static_cast<size_t>(slice.start + i * slice.step)]);
    }
    return make_str(encode(out), text->markup);
  }
  const bool other_sequence = object.is(Kind::kObject) && object.object()->is_sequence();
  if (!object.is_sequence() && !other_sequence) {
    type_error("'{}' object is not subscriptable", type_name(object));
  }
  const Slice slice = resolve_slice(start, stop, step, length_of(object));
  std::vector<Value> items;
  for (int64_t i = 0; i < slice.count; ++i) {
    Budget::step();
    items.push_back(*item_at(object, slice.start + i * slice.step));
  }
  return object.is(Kind::kTuple) ? make_tuple(std::move(items)) : make_list(std::move(items));
}

}  // namespace edgewise::jinja
