#include "text/jinja/objects.h"

#include <algorithm>
#include <iterator>

#include "text/jinja/failure.h"
#include "text/jinja/methods.h"
#include "text/jinja/operators.h"

namespace edgewise::jinja {

std::string Namespace::repr() const {
  Budget::check_stack();
  std::string out = "<Namespace {";
  const char* separator = "";
  for (const auto& [name, value] : attributes_) {
    out += separator + string_literal(name) + ": " + jinja::repr(value);
    separator = ", ";
    Budget::check_text(out.size());
  }
  return out + "}>";
}

std::optional<Value> Namespace::attribute(const std::string& name) {
  for (const auto& [known, value] : attributes_) {
    if (known == name) return value;
  }
  return std::nullopt;
}

void Namespace::set(const std::string& name, Value value) {
  for (auto& [known, old] : attributes_) {
    if (known == name) {
      old = std::move(value);
      return;
    }
  }
  Budget::check_items(attributes_.size() + 1);
  attributes_.emplace_back(name, std::move(value));
}

Loop::Loop(Next next, std::optional<int64_t> length, int depth0, Recurse recurse, int value_depth)
    : next_(std::move(next)),
      length_(length),
      depth0_(depth0),
      recurse_(std::move(recurse)),
      value_depth_(checked_depth(value_depth + 1)) {}

bool Loop::peek() {
  if (!pulled_.empty()) return true;
  if (exhausted_) return false;
  Value item;
  exhausted_ = !next_(item);
  if (!exhausted_) pulled_.push_back(std::move(item));
  return !exhausted_;
}

bool Loop::advance(Value& item) {
  if (!peek()) return false;
  item = std::move(pulled_.back());
  pulled_.pop_back();
  ++index0_;
  before_ = std::exchange(current_, item);
  return true;
}

void Loop::finish() {
  finished_ = true;
  last_changed_.reset();
  next_ = [](Value&) { return false; };
  recurse_ = nullptr;
}

std::optional<int64_t> Loop::length() {
  if (!length_) {
    std::vector<Value> rest;
    while (!exhausted_) {  // a generator has to be walked to know
      Value item;
      exhausted_ = !next_(item);
      if (!exhausted_) rest.push_back(std::move(item));
      Budget::check_items(rest.size());
    }
    std::reverse(rest.begin(), rest.end());
    pulled_.insert(pulled_.begin(), std::make_move_iterator(rest.begin()), std::make_move_iterator(rest.end()));
    length_ = static_cast<int64_t>(pulled_.size()) + index0_ + 1;
  }
  return length_;
}

std::string Loop::repr() const {
  auto& self = const_cast<Loop&>(*this);
  return fmt::format("<LoopContext {}/{}>", index0_ + 1, *self.length());
}

Value Loop::call(const Args& args) {
  const Signature given("loop", args, {"iterable"}, 1);
  if (!recurse_) type_error("The loop must have the 'recursive' marker to be called recursively.");
  const Recurse recurse = recurse_;
  return recurse(*given[0]);
}

bool Loop::changed(const std::vector<Value>& values) {
  const bool same = last_changed_ && last_changed_->size() == values.size() &&
                    std::equal(values.begin(), values.end(), last_changed_->begin(), jinja::equals);
  if (!same && !finished_) last_changed_ = values;
  return !same;
}

std::optional<Value> Loop::attribute(const std::string& name) {
  if (name == "index") return Value(index0_ + 1);
  if (name == "index0") return Value(index0_);
  if (name == "first") return Value(index0_ == 0);
  if (name == "last") return Value(!peek());
  if (name == "length") return Value(*length());
  if (name == "revindex") return Value(*length() - index0_);
  if (name == "revindex0") return Value(*length() - index0_ - 1);
  if (name == "depth") return Value(depth0_ + 1);
  if (name == "depth0") return Value(depth0_);
  if (name == "previtem") return index0_ == 0 ? make_undefined("there is no previous item") : before_;
  if (name == "nextitem") return peek() ? pulled_.back() : make_undefined("there is no next item");
  const auto self = std::static_pointer_cast<Loop>(shared_from_this());
  if (name == "cycle") {
    return make_function("cycle", [index = index0_](const Args& args) {
      if (args.positional.empty()) type_error("no items for cycling given");
      return args.positional[static_cast<size_t>(index) % args.positional.size()];
    });
  }
  if (name == "changed") {
    return make_function(
        "changed", [self](const Args& args) { return Value(self->changed(args.positional)); },
        checked_depth(value_depth_ + 1));
  }
  return std::nullopt;
}

}  // namespace edgewise::jinja
