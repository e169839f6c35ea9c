#include "text/jinja/value.h"

#include <algorithm>

#include "text/jinja/failure.h"
#include "text/jinja/operators.h"
#include "text/jinja/unicode.h"

namespace edgewise::jinja {
namespace {

constexpr size_t kIndexedFrom = 8;  // smaller dictionaries are searched linearly

int depth_above(const std::vector<Value>& items) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, depth_of(item));
  return checked_depth(depth + 1);
}

class Generator : public Object {
 public:
  Generator(Next next, int depth) : next_(std::move(next)), depth_(depth) {}
  std::string type_name() const override { return "generator"; }
  bool is_iterable() const override { return true; }
  Next iterate() override {
    return [self = std::static_pointer_cast<Generator>(shared_from_this())](Value& out) {
      if (self->running_) value_error("generator already executing");
      if (self->done_) return false;
      Budget::check_stack();
      self->running_ = true;
      try {
        self->done_ = !self->next_(out);
      } catch (...) {
        self->running_ = false;
        self->done_ = true;
        throw;
      }
      self->running_ = false;
      return !self->done_;
    };
  }
  int depth() const override { return depth_; }

 private:
  Next next_;
  int depth_;
  bool running_ = false;
  bool done_ = false;
};

}  // namespace

Value Object::call(const Args&) { type_error("'{}' object is not callable", type_name()); }

StrData::StrData(std::string value, bool is_markup)
    : Accounted(value.size() + sizeof(StrData)),
      text(std::move(value)),
      length(count_code_points(text)),
      markup(is_markup) {
  Budget::check_text(text.size());
}

SequenceData::SequenceData(std::vector<Value> values)
    : Accounted(values.size() * sizeof(Value) + sizeof(SequenceData)),
      items(std::move(values)),
      depth(depth_above(items)) {
  Budget::check_items(items.size());
}

DictData::DictData(std::vector<std::pair<Value, Value>> pairs)
    : Accounted(pairs.size() * 2 * sizeof(Value) + sizeof(DictData)) {
  Budget::check_items(pairs.size());
  const bool indexed = pairs.size() >= kIndexedFrom;
  items.reserve(pairs.size());
  for (auto& [key, value] : pairs) {
    depth = std::max({depth, depth_of(key) + 1, depth_of(value) + 1});
    if (const Value* known = find(key)) {
      *const_cast<Value*>(known) = std::move(value);
      continue;
    }
    if (indexed) index_.emplace(hash_of(key), items.size());
    items.emplace_back(std::move(key), std::move(value));
  }
  checked_depth(depth);
}

const Value* DictData::find(const Value& key) const {
  const size_t hash = hash_of(key);
  if (index_.empty()) {
    for (const auto& [known, value] : items) {
      if (equals(known, key)) return &value;
    }
    return nullptr;
  }
  const auto [first, last] = index_.equal_range(hash);
  for (auto found = first; found != last; ++found) {
    if (equals(items[found->second].first, key)) return &items[found->second].second;
  }
  return nullptr;
}

const Value* DictData::find(std::string_view key) const {
  if (index_.empty()) {
    for (const auto& [known, value] : items) {
      if (known.is_str() && known.text() == key) return &value;
    }
    return nullptr;
  }
  const auto [first, last] = index_.equal_range(std::hash<std::string_view>{}(key));
  for (auto found = first; found != last; ++found) {
    const auto& [known, value] = items[found->second];
    if (known.is_str() && known.text() == key) return &value;
  }
  return nullptr;
}

Value make_str(std::string text, bool markup) { return std::make_shared<const StrData>(std::move(text), markup); }

Value make_list(std::vector<Value> items) {
  return {Kind::kList, std::make_shared<const SequenceData>(std::move(items))};
}

Value make_tuple(std::vector<Value> items) {
  return {Kind::kTuple, std::make_shared<const SequenceData>(std::move(items))};
}

Value make_dict(std::vector<std::pair<Value, Value>> items) {
  return std::make_shared<const DictData>(std::move(items));
}

Value make_undefined(std::string message, std::string type) {
  return std::make_shared<const UndefinedInfo>(UndefinedInfo{std::move(message), std::move(type)});
}

Value make_generator(Next next, int depth) {
  return ObjectPtr(std::make_shared<Generator>(std::move(next), checked_depth(depth + 1)));
}

int depth_of(const Value& value) {
  switch (value.kind()) {
    case Kind::kList:
    case Kind::kTuple:
      return value.sequence()->depth;
    case Kind::kDict:
      return value.dict().depth;
    case Kind::kObject:
      return value.object()->depth();
    default:
      return 0;
  }
}

int checked_depth(int depth) {
  if (depth > kMaxValueDepth) limit_error("values nested deeper than {} levels", kMaxValueDepth);
  return depth;
}

}  // namespace edgewise::jinja
