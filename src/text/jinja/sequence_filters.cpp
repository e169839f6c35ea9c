// Filters on lists, dictionaries and what else can be walked through.
#include <algorithm>

#include "text/jinja/failure.h"
#include "text/jinja/filters.h"
#include "text/jinja/methods.h"
#include "text/jinja/operators.h"
#include "text/jinja/unicode.h"

namespace edgewise::jinja {
namespace {

Value length(const Value& value, const Args& args) {
  Signature("length", args, {}, 0);
  return length_of(value);
}

Value list(const Value& value, const Args& args) {
  Signature("list", args, {}, 0);
  return make_list(to_vector(value));
}

Value first(const Value& value, const Args& args) {
  Signature("first", args, {}, 0);
  Value item;
  if (iterate(value)(item)) return item;
  return make_undefined("No first item, sequence was empty.");
}

bool is_reversible(const Value& value) {
  if (value.is(Kind::kObject)) {
    const std::string type = value.object()->type_name();
    return value.object()->is_sequence() || type.starts_with("dict_");
  }
  return value.is_str() || value.is_sequence() || value.is(Kind::kDict);
}

Value last(const Value& value, const Args& args) {
  Signature("last", args, {}, 0);
  if (value.is_undefined()) return make_undefined("No last item, sequence was empty.");
  if (!is_reversible(value)) type_error("'{}' object is not reversible", type_name(value));
  const std::vector<Value> items = to_vector(value);
  return items.empty() ? make_undefined("No last item, sequence was empty.") : items.back();
}

Value reverse(const Value& value, const Args& args) {
  Signature("reverse", args, {}, 0);
  if (value.is_str()) {
    std::u32string code_points = decode(value.text());
    std::reverse(code_points.begin(), code_points.end());
    return make_str(encode(code_points), value.is_markup());
  }
  if (!is_iterable(value)) argument_error("argument must be iterable");
  std::vector<Value> items = to_vector(value);
  std::reverse(items.begin(), items.end());
  const Value reversed = make_list(std::move(items));
  return is_reversible(value) ? make_generator(iterate(reversed), depth_of(reversed)) : reversed;
}

Value join(const Value& value, const Args& args) {
  const Signature given("join", args, {"d", "attribute"}, 0);
  const Value path = given.get(1, Value());
  const Getter getter = make_getter(path, false);
  const std::string separator = given[0] ? to_text(*given[0]) : "";
  std::string out;
  bool first_item = true;
  const Next next = iterate(value);
  for (Value item; next(item); first_item = false) {
    if (!first_item) out += separator;
    out += to_text(getter(item));
    Budget::check_text(out.size());
  }
  return make_str(std::move(out));
}

// Sorts by precomputed keys, stable also when reversed, as Python does.
std::vector<Value> sorted(std::vector<Value> items, const Getter& key_of, bool reversed) {
  std::vector<std::pair<Value, Value>> keyed;
  keyed.reserve(items.size());
  for (Value& item : items) {
    Value key = key_of(item);
    keyed.emplace_back(std::move(key), std::move(item));
  }
  if (reversed) std::reverse(keyed.begin(), keyed.end());
  std::stable_sort(keyed.begin(), keyed.end(), [](const auto& a, const auto& b) { return less(a.first, b.first); });
  if (reversed) std::reverse(keyed.begin(), keyed.end());
  std::vector<Value> out;
  out.reserve(keyed.size());
  for (auto& [key, item] : keyed) out.push_back(std::move(item));
  return out;
}

Value sort(const Value& value, const Args& args) {
  const Signature given("sort", args, {"reverse", "case_sensitive", "attribute"}, 0);
  const Getter key_of = make_multi_getter(given.get(2, Value()), !given.boolean(1, false));
  return make_list(sorted(to_vector(value), key_of, given.boolean(0, false)));
}

Value dict_sort(const Value& value, const Args& args) {
  const Signature given("dictsort", args, {"case_sensitive", "by", "reverse"}, 0);
  const std::string by = given[1] ? to_text(*given[1]) : "key";
  if (by != "key" && by != "value") argument_error("You can only sort by either \"key\" or \"value\"");
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is(Kind::kDict)) type_error("'{}' object has no attribute 'items'", type_name(value));
  const Getter key_of = make_getter(Value(int64_t{by == "key" ? 0 : 1}), !given.boolean(0, false));
  const Value view = make_dict_view(value.dict_ptr(), DictPart::kItems);
  return make_list(sorted(to_vector(view), key_of, given.boolean(2, false)));
}

Value items(const Value& value, const Args& args) {
  Signature("items", args, {}, 0);
  if (value.is_undefined()) return make_generator([](Value&) { return false; }, 0);
  // jinja2 complains on the first step only, as its filter is a generator.
  if (!value.is(Kind::kDict)) {
    return make_generator([](Value&) -> bool { type_error("Can only get item pairs from a mapping."); }, 0);
  }
  const Value view = make_dict_view(value.dict_ptr(), DictPart::kItems);
  return make_generator(iterate(view), depth_of(view));
}

Value batch(const Value& value, const Args& args) {
  const Signature given("batch", args, {"linecount", "fill_with"}, 1);
  const Value count = *given[0];
  const Value fill = given.get(1, Value());
  struct State {
    Next next;
    Value carried;
    bool has_carried = false;
  };
  auto state = std::make_shared<State>();
  state->next = iterate(value);
  return make_generator(
      [state, count, fill](Value& out) {
        std::vector<Value> line;
        if (std::exchange(state->has_carried, false)) line.push_back(std::move(state->carried));
        for (Value item; state->next(item);) {
          if (equals(Value(static_cast<int64_t>(line.size())), count)) {
            state->carried = std::move(item);
            state->has_carried = true;
            out = make_list(std::move(line));
            return true;
          }
          line.push_back(std::move(item));
        }
        if (line.empty()) return false;
        if (!fill.is_none()) {
          const int64_t wanted = to_index(count);
          Budget::check_items(wanted > 0 ? static_cast<size_t>(wanted) : 0);
          while (static_cast<int64_t>(line.size()) < wanted) line.push_back(fill);
        }
        out = make_list(std::move(line));
        return true;
      },
      std::max(depth_of(value), depth_of(fill)) + 1);
}

Value slice(const Value& value, const Args& args) {
  const Signature given("slice", args, {"slices", "fill_with"}, 1);
  const std::vector<Value> all = to_vector(value);
  const int64_t slices = given.integer(0, 0);
  const Value fill = given.get(1, Value());
  if (slices == 0) throw Failure("ZeroDivisionError", "integer division or modulo by zero");
  Budget::check_items(slices > 0 ? static_cast<size_t>(slices) : 0);
  const auto size = static_cast<int64_t>(all.size());
  std::vector<Value> out;
  int64_t start = 0;
  for (int64_t i = 0; i < slices; ++i) {
    const bool extra = i < size % slices;
    const int64_t end = start + size / slices + (extra ? 1 : 0);
    std::vector<Value> part(all.begin() + start, all.begin() + end);
    if (!fill.is_none() && !extra) part.push_back(fill);
    out.push_back(make_list(std::move(part)));
    start = end;
  }
  const Value parts = make_list(std::move(out));
  return make_generator(iterate(parts), depth_of(parts));
}

Value group_by(const Value& value, const Args& args) {
  const Signature given("groupby", args, {"attribute", "default", "case_sensitive"}, 1);
  const Value otherwise = given.get(1, Value());
  const Getter key_of = make_getter(*given[0], !given.boolean(2, false), otherwise);
  const Getter shown_key = make_getter(*given[0], false, otherwise);
  const std::vector<Value> all = sorted(to_vector(value), key_of, false);
  std::vector<Value> groups;
  for (size_t start = 0; start < all.size();) {
    const Value key = key_of(all[start]);
    size_t end = start + 1;
    while (end < all.size() && equals(key_of(all[end]), key)) ++end;
    std::vector<Value> members(all.begin() + static_cast<std::ptrdiff_t>(start),
                               all.begin() + static_cast<std::ptrdiff_t>(end));
    auto group =
        std::make_shared<SequenceData>(std::vector<Value>{shown_key(all[start]), make_list(std::move(members))});
    group->grouped = true;
    groups.emplace_back(Kind::kTuple, std::move(group));
    start = end;
  }
  return make_list(std::move(groups));
}

Value attribute(const Value& value, const Args& args) {
  const Signature given("attr", args, {"name"}, 1);
  if (!given[0]->is_str()) type_error("attribute name must be string, not '{}'", type_name(*given[0]));
  const std::string& name = given[0]->text();
  if (value.is_undefined()) return get_attribute(value, name);
  if (!is_unsafe_attribute(value, name) && !own_attribute(value, name)) {
    return make_undefined(fmt::format("'{} object' has no attribute {}", type_name(value), string_literal(name)));
  }
  return get_attribute(value, name);
}

constexpr NamedFilter kSequenceFilters[] = {
    {"length", length},   {"count", length}, {"list", list},        {"first", first},        {"last", last},
    {"reverse", reverse}, {"join", join},    {"sort", sort},        {"dictsort", dict_sort}, {"items", items},
    {"batch", batch},     {"slice", slice},  {"groupby", group_by}, {"attr", attribute},
};

}  // namespace

Filter find_sequence_filter(std::string_view name) {
  for (const NamedFilter& entry : kSequenceFilters) {
    if (entry.name == name) return entry.filter;
  }
  return nullptr;
}

}  // namespace edgewise::jinja
