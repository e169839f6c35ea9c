// Filters that choose, change or add up the items of an iterable.
#include <algorithm>
#include <unordered_set>

#include "text/jinja/failure.h"
#include "text/jinja/filters.h"
#include "text/jinja/methods.h"
#include "text/jinja/operators.h"

namespace edgewise::jinja {
namespace {

Value default_value(const Value& value, const Args& args) {
  const Signature given("default", args, {"default_value", "boolean"}, 0);
  const bool replaced = value.is_undefined() || (given.boolean(1, false) && !truthy(value));
  return replaced ? (given[0] ? *given[0] : make_str("")) : value;
}

Value empty_generator() {
  return make_generator([](Value&) { return false; }, 0);
}

Getter mapping_of(const Args& args) {
  if (args.positional.empty()) {
    Value path;
    Value otherwise;
    bool has_path = false;
    for (const auto& [name, value] : args.named) {
      if (name == "attribute") {
        path = value;
        has_path = true;
      } else if (name == "default") {
        otherwise = value;
      } else if (has_path) {
        argument_error("Unexpected keyword argument {}", string_literal(name));
      }
    }
    if (!has_path) argument_error("map requires a filter argument");
    return make_getter(path, false, otherwise);
  }
  if (!args.positional[0].is_str()) runtime_error("No filter named {} found.", repr(args.positional[0]));
  Args rest{{args.positional.begin() + 1, args.positional.end()}, args.named};
  return [name = args.positional[0].text(), rest = std::move(rest)](const Value& item) {
    return apply_filter(name, item, rest);
  };
}

int depth_of_args(const Value& value, const Args& args) {
  int depth = depth_of(value);
  for (const Value& argument : args.positional) depth = std::max(depth, depth_of(argument));
  for (const auto& [name, argument] : args.named) depth = std::max(depth, depth_of(argument));
  return depth + 1;
}

Value map(const Value& value, const Args& args) {
  if (!truthy(value)) return empty_generator();
  return make_generator(
      [next = iterate(value), change = mapping_of(args)](Value& out) {
        Value item;
        if (!next(item)) return false;
        out = change(item);
        return true;
      },
      depth_of_args(value, args));
}

// select, reject, selectattr, rejectattr.
template <bool Wanted, bool ByAttribute>
Value select(const Value& value, const Args& args) {
  if (!truthy(value)) return empty_generator();
  const size_t skipped = ByAttribute ? 1 : 0;
  if (args.positional.size() < skipped) argument_error("Missing parameter for attribute name");
  const Getter subject = make_getter(ByAttribute ? args.positional[0] : Value(), false);
  std::function<bool(const Value&)> test = truthy;
  if (args.positional.size() > skipped) {
    const Value& name = args.positional[skipped];
    if (!name.is_str()) runtime_error("No test named {} found.", repr(name));
    Args rest{{args.positional.begin() + static_cast<std::ptrdiff_t>(skipped) + 1, args.positional.end()}, args.named};
    test = [name = name.text(), rest = std::move(rest)](const Value& item) { return apply_test(name, item, rest); };
  }
  return make_generator(
      [next = iterate(value), subject, test](Value& out) {
        while (next(out)) {
          if (test(subject(out)) == Wanted) return true;
        }
        return false;
      },
      depth_of_args(value, args));
}

template <bool Greatest>
Value extreme(const Value& value, const Args& args) {
  const Signature given(Greatest ? "max" : "min", args, {"case_sensitive", "attribute"}, 0);
  const Getter key_of = make_getter(given.get(1, Value()), !given.boolean(0, false));
  const Next next = iterate(value);
  Value best;
  if (!next(best)) return make_undefined("No aggregated item, sequence was empty.");
  Value best_key = key_of(best);
  for (Value item; next(item);) {
    Value key = key_of(item);
    if (Greatest ? compare(Comparison::kGt, key, best_key) : compare(Comparison::kLt, key, best_key)) {
      best = item;
      best_key = std::move(key);
    }
  }
  return best;
}

struct KeyHash {
  size_t operator()(const Value& value) const { return hash_of(value); }
};
struct KeyEqual {
  bool operator()(const Value& a, const Value& b) const { return equals(a, b); }
};

Value unique(const Value& value, const Args& args) {
  const Signature given("unique", args, {"case_sensitive", "attribute"}, 0);
  auto seen = std::make_shared<std::unordered_set<Value, KeyHash, KeyEqual>>();
  return make_generator(
      [seen, next = iterate(value), key_of = make_getter(given.get(1, Value()), !given.boolean(0, false))](Value& out) {
        while (next(out)) {
          if (seen->insert(key_of(out)).second) return true;
        }
        return false;
      },
      depth_of(value));
}

Value sum(const Value& value, const Args& args) {
  const Signature given("sum", args, {"attribute", "start"}, 0);
  const Getter getter = make_getter(given.get(0, Value()), false);
  Value total = given.get(1, int64_t{0});
  if (total.is_str()) type_error("sum() can't sum strings [use ''.join(seq) instead]");
  const Next next = iterate(value);
  for (Value item; next(item);) total = apply(Operator::kAdd, total, getter(item));
  return total;
}

constexpr NamedFilter kSelectionFilters[] = {
    {"default", default_value},
    {"d", default_value},
    {"map", map},
    {"select", select<true, false>},
    {"reject", select<false, false>},
    {"selectattr", select<true, true>},
    {"rejectattr", select<false, true>},
    {"min", extreme<false>},
    {"max", extreme<true>},
    {"unique", unique},
    {"sum", sum},
};

}  // namespace

Filter find_selection_filter(std::string_view name) {
  for (const NamedFilter& entry : kSelectionFilters) {
    if (entry.name == name) return entry.filter;
  }
  return nullptr;
}

}  // namespace edgewise::jinja
