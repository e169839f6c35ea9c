// Objects that templates make and meet while they render.
#pragma once

#include <ctime>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja/value.h"

namespace edgewise::jinja {

// A function of ours.
class Function : public Object {
 public:
  using Body = std::function<Value(const Args&)>;
  Function(std::string name, Body body, int depth = 1)
      : name_(std::move(name)), body_(std::move(body)), depth_(depth) {}
  std::string type_name() const override { return "function"; }
  std::string repr() const override { return "<function " + name_ + ">"; }
  bool is_callable() const override { return true; }
  Value call(const Args& args) override { return body_(args); }
  int depth() const override { return depth_; }

 private:
  std::string name_;
  Body body_;
  int depth_;
};

inline Value make_function(std::string name, Function::Body body, int depth = 1) {
  return ObjectPtr(std::make_shared<Function>(std::move(name), std::move(body), depth));
}

// The one thing a template may change.
class Namespace : public Object {
 public:
  std::string type_name() const override { return "Namespace"; }
  std::string repr() const override;
  std::optional<Value> attribute(const std::string& name) override;
  void set(const std::string& name, Value value);
  void clear() { attributes_.clear(); }

 private:
  std::vector<std::pair<std::string, Value>> attributes_;
};

// What `loop` is inside of a for loop.
class Loop : public Object {
 public:
  using Recurse = std::function<Value(const Value& iterable)>;
  // `length` is known unless the loop filters or walks a generator.
  Loop(Next next, std::optional<int64_t> length, int depth0, Recurse recurse, int value_depth);

  // Moves to the next item.
  bool advance(Value& item);
  // At the loop's end: lets go of what might refer back to the loop.
  void finish();

  std::string type_name() const override { return "LoopContext"; }
  std::string repr() const override;
  bool is_callable() const override { return true; }
  Value call(const Args& args) override;
  std::optional<Value> attribute(const std::string& name) override;
  std::optional<int64_t> length() override;
  int depth() const override { return value_depth_; }

 private:
  bool peek();
  bool changed(const std::vector<Value>& values);

  Next next_;
  std::vector<Value> pulled_;  // read ahead of time, in reverse
  bool exhausted_ = false;
  bool finished_ = false;
  std::optional<int64_t> length_;
  int64_t index0_ = -1;
  int64_t depth0_;
  Recurse recurse_;
  int value_depth_;
  Value before_;
  Value current_;
  std::optional<std::vector<Value>> last_changed_;
};

using Clock = std::function<std::tm()>;

// range, dict, cycler, joiner, raise_exception and strftime_now. `namespace` is the renderer's, which keeps track
// of the namespaces made.
std::vector<std::pair<std::string, Value>> make_globals(const Clock& clock);
// dict(mapping or pairs, **named).
std::vector<std::pair<Value, Value>> dict_items(const Args& args);

}  // namespace edgewise::jinja
