#include "text/jinja/methods.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "text/jinja/failure.h"
#include "text/jinja/operators.h"

namespace edgewise::jinja {
namespace {

// A method together with its object: what `text.upper` is before the call.
class BoundMethod : public Object {
 public:
  BoundMethod(Value self, std::string name, Method method)
      : self_(std::move(self)), name_(std::move(name)), method_(method), depth_(checked_depth(depth_of(self_) + 1)) {}
  std::string type_name() const override { return "builtin_function_or_method"; }
  std::string repr() const override {
    return fmt::format("<built-in method {} of {} object>", name_, jinja::type_name(self_));
  }
  bool is_callable() const override { return true; }
  Value call(const Args& args) override { return method_(self_, args); }
  int depth() const override { return depth_; }

 private:
  Value self_;
  std::string name_;
  Method method_;
  int depth_;
};

// dict.keys(), .values() and .items().
class DictView : public Object {
 public:
  DictView(DictPtr dict, DictPart part) : dict_(std::move(dict)), part_(part) {}
  std::string type_name() const override {
    return part_ == DictPart::kKeys ? "dict_keys" : part_ == DictPart::kValues ? "dict_values" : "dict_items";
  }
  std::string repr() const override {
    std::vector<Value> items;
    for (size_t i = 0; i < dict_->items.size(); ++i) items.push_back(at(i));
    return type_name() + "(" + jinja::repr(make_list(std::move(items))) + ")";
  }
  std::optional<int64_t> length() override { return static_cast<int64_t>(dict_->items.size()); }
  bool is_iterable() const override { return true; }
  Next iterate() override {
    return [self = std::static_pointer_cast<DictView>(shared_from_this()), i = size_t{0}](Value& out) mutable {
      if (i >= self->dict_->items.size()) return false;
      Budget::step();
      out = self->at(i++);
      return true;
    };
  }
  int depth() const override { return dict_->depth + 1; }
  // Keys and items compare as sets; values only with themselves.
  bool equals(const Object& other) const override {
    const auto* view = dynamic_cast<const DictView*>(&other);
    if (view == this) return true;
    if (view == nullptr || part_ == DictPart::kValues || view->part_ != part_) return false;
    if (part_ == DictPart::kItems) return jinja::equals(Value(dict_), Value(view->dict_));
    const auto known = [view](const auto& item) { return view->dict_->find(item.first) != nullptr; };
    return dict_->items.size() == view->dict_->items.size() &&
           std::all_of(dict_->items.begin(), dict_->items.end(), known);
  }

 private:
  Value at(size_t index) const {
    const auto& [key, value] = dict_->items[index];
    if (part_ == DictPart::kItems) return make_tuple({key, value});
    return part_ == DictPart::kKeys ? key : value;
  }

  DictPtr dict_;
  DictPart part_;
};

template <DictPart part>
Value dict_view(const Value& self, const Args& args) {
  Signature("dict method", args, {}, 0);
  return make_dict_view(self.dict_ptr(), part);
}

Value dict_get(const Value& self, const Args& args) {
  const Signature given("get", args, {"key", "default"}, 1, 2);
  const Value* found = self.dict().find(*given[0]);
  return found ? *found : given.get(1, Value());
}

Value copy_of(const Value& self, const Args& args) {
  Signature("copy", args, {}, 0);
  return self.is(Kind::kDict) ? make_dict(self.dict().items) : make_list(self.items());
}

Value sequence_count(const Value& self, const Args& args) {
  const Signature given("count", args, {"value"}, 1, 1);
  return static_cast<int64_t>(std::count_if(self.items().begin(), self.items().end(),
                                            [&](const Value& item) { return equals(item, *given[0]); }));
}

Value sequence_index(const Value& self, const Args& args) {
  const Signature given("index", args, {"value", "start", "stop"}, 1, 3);
  const auto size = static_cast<int64_t>(self.items().size());
  const auto bound = [&](size_t i, int64_t otherwise) {
    const int64_t at = given.integer(i, otherwise);
    return std::clamp<int64_t>(at < 0 ? at + size : at, 0, size);
  };
  const int64_t stop = bound(2, size);
  for (int64_t i = bound(1, 0); i < stop; ++i) {
    if (equals(self.items()[static_cast<size_t>(i)], *given[0])) return i;
  }
  value_error("{} is not in {}", repr(*given[0]), type_name(self));
}

Value bit_length(const Value& self, const Args& args) {
  Signature("bit_length", args, {}, 0);
  const auto bits = static_cast<uint64_t>(self.integer());
  return static_cast<int64_t>(std::bit_width(self.integer() < 0 ? uint64_t{0} - bits : bits));
}

Value is_integer(const Value& self, const Args& args) {
  Signature("is_integer", args, {}, 0);
  return std::isfinite(self.number()) && self.number() == std::floor(self.number());
}

Value conjugate(const Value& self, const Args& args) {
  Signature("conjugate", args, {}, 0);
  return unary_plus(self);
}

Method find_method(const Value& object, std::string_view name) {
  switch (object.kind()) {
    case Kind::kStr:
      return find_string_method(name);
    case Kind::kDict:
      if (name == "items") return dict_view<DictPart::kItems>;
      if (name == "keys") return dict_view<DictPart::kKeys>;
      if (name == "values") return dict_view<DictPart::kValues>;
      if (name == "get") return dict_get;
      return name == "copy" ? copy_of : nullptr;
    case Kind::kList:
      if (name == "copy") return copy_of;
      [[fallthrough]];
    case Kind::kTuple:
      if (name == "count") return sequence_count;
      return name == "index" ? sequence_index : nullptr;
    case Kind::kBool:
    case Kind::kInt:
      if (name == "conjugate") return conjugate;
      return name == "bit_length" ? bit_length : nullptr;
    case Kind::kFloat:
      if (name == "conjugate") return conjugate;
      return name == "is_integer" ? is_integer : nullptr;
    default:
      return nullptr;
  }
}

}  // namespace

Value make_dict_view(const DictPtr& dict, DictPart part) { return ObjectPtr(std::make_shared<DictView>(dict, part)); }

std::optional<Value> builtin_attribute(const Value& object, const std::string& name) {
  if (const Method method = find_method(object, name)) {
    return Value(ObjectPtr(std::make_shared<BoundMethod>(object, name, method)));
  }
  if (object.is(Kind::kTuple) && object.sequence()->grouped) {
    if (name == "grouper") return object.items()[0];
    if (name == "list") return object.items()[1];
  }
  if (object.is_number()) {
    if (name == "real" || (name == "numerator" && object.is_integral())) return unary_plus(object);
    if (name == "imag") return object.is_integral() ? Value(int64_t{0}) : Value(0.0);
    if (name == "denominator" && object.is_integral()) return Value(int64_t{1});
  }
  return std::nullopt;
}

bool is_unsafe_attribute(const Value& object, std::string_view name) {
  // Every Python object has these.
  for (const std::string_view common :
       {"__class__",  "__doc__",          "__init__",          "__dict__",     "__module__",  "__eq__",
        "__ne__",     "__hash__",         "__repr__",          "__str__",      "__dir__",     "__new__",
        "__reduce__", "__reduce_ex__",    "__getattribute__",  "__setattr__",  "__delattr__", "__format__",
        "__sizeof__", "__subclasshook__", "__init_subclass__", "__lt__",       "__le__",      "__gt__",
        "__ge__",     "__len__",          "__iter__",          "__contains__", "__getitem__"}) {
    if (name == common) return true;
  }
  const auto any_of = [&](std::initializer_list<std::string_view> names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  if (object.is(Kind::kList)) {
    return any_of({"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"});
  }
  if (object.is(Kind::kDict)) return any_of({"clear", "pop", "popitem", "setdefault", "update"});
  return false;
}

}  // namespace edgewise::jinja
