// Values of the template language: Python's, as far as templates can meet them. Immutable but for objects.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "text/jinja/budget.h"

namespace edgewise::jinja {

class Value;
class Object;
struct StrData;
struct SequenceData;
struct DictData;
using StrPtr = std::shared_ptr<const StrData>;
using SequencePtr = std::shared_ptr<const SequenceData>;
using DictPtr = std::shared_ptr<const DictData>;
using ObjectPtr = std::shared_ptr<Object>;
// Gives the next item, or false at the end.
using Next = std::function<bool(Value&)>;

struct None {};
// What jinja2 calls Undefined: prints as nothing, and fails with `message` when used.
struct UndefinedInfo {
  std::string message;
  std::string type = "UndefinedError";
};
using UndefinedPtr = std::shared_ptr<const UndefinedInfo>;

enum class Kind { kUndefined, kNone, kBool, kInt, kFloat, kStr, kList, kTuple, kDict, kObject };

class Value {
 public:
  Value() : kind_(Kind::kNone), data_(None{}) {}
  Value(bool value) : kind_(Kind::kBool), data_(value) {}                          // NOLINT: conversions are the point
  Value(int64_t value) : kind_(Kind::kInt), data_(value) {}                        // NOLINT
  Value(double value) : kind_(Kind::kFloat), data_(value) {}                       // NOLINT
  Value(StrPtr value) : kind_(Kind::kStr), data_(std::move(value)) {}              // NOLINT
  Value(DictPtr value) : kind_(Kind::kDict), data_(std::move(value)) {}            // NOLINT
  Value(ObjectPtr value) : kind_(Kind::kObject), data_(std::move(value)) {}        // NOLINT
  Value(UndefinedPtr value) : kind_(Kind::kUndefined), data_(std::move(value)) {}  // NOLINT
  Value(Kind kind, SequencePtr value) : kind_(kind), data_(std::move(value)) {}
  Value(const char*) = delete;
  Value(int) = delete;

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_none() const { return is(Kind::kNone); }
  bool is_undefined() const { return is(Kind::kUndefined); }
  bool is_str() const { return is(Kind::kStr); }
  bool is_sequence() const { return is(Kind::kList) || is(Kind::kTuple); }
  bool is_integral() const { return is(Kind::kInt) || is(Kind::kBool); }  // Python's bool is an int
  bool is_number() const { return is_integral() || is(Kind::kFloat); }

  bool boolean() const { return std::get<bool>(data_); }
  int64_t integer() const { return is(Kind::kBool) ? int64_t{boolean()} : std::get<int64_t>(data_); }
  double number() const { return is(Kind::kFloat) ? std::get<double>(data_) : static_cast<double>(integer()); }
  const StrPtr& str_ptr() const { return std::get<StrPtr>(data_); }
  const StrData& str() const { return *str_ptr(); }
  inline const std::string& text() const;
  inline bool is_markup() const;
  const SequencePtr& sequence() const { return std::get<SequencePtr>(data_); }
  inline const std::vector<Value>& items() const;
  const DictPtr& dict_ptr() const { return std::get<DictPtr>(data_); }
  const DictData& dict() const { return *dict_ptr(); }
  const ObjectPtr& object() const { return std::get<ObjectPtr>(data_); }
  const UndefinedInfo& undefined() const { return *std::get<UndefinedPtr>(data_); }
  // The object as a T, or null.
  template <typename T>
  std::shared_ptr<T> as() const {
    return is(Kind::kObject) ? std::dynamic_pointer_cast<T>(object()) : nullptr;
  }

 private:
  Kind kind_;
  std::variant<None, bool, int64_t, double, StrPtr, SequencePtr, DictPtr, ObjectPtr, UndefinedPtr> data_;
};

struct StrData : Accounted {
  StrData(std::string value, bool is_markup);
  std::string text;
  size_t length;  // in code points
  bool markup;    // markupsafe.Markup: made by |escape and |safe, escapes what is added to it
  bool is_ascii() const { return length == text.size(); }
};

struct SequenceData : Accounted {
  explicit SequenceData(std::vector<Value> values);
  std::vector<Value> items;
  int depth;
  bool grouped = false;  // a tuple of |groupby, with the fields grouper and list
};

// Ordered by insertion. Filled once, by the one who makes it.
struct DictData : Accounted {
  explicit DictData(std::vector<std::pair<Value, Value>> pairs);  // later duplicates replace values
  std::vector<std::pair<Value, Value>> items;
  int depth = 1;
  const Value* find(const Value& key) const;  // throws TypeError for an unhashable key
  const Value* find(std::string_view key) const;

 private:
  std::unordered_multimap<size_t, size_t> index_;
};

// Arguments of a call.
struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// Everything that isn't plain data: functions, macros, namespaces, generators, loops.
class Object : public std::enable_shared_from_this<Object> {
 public:
  Object() = default;
  virtual ~Object() = default;
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;

  virtual std::string type_name() const = 0;
  virtual std::string repr() const { return "<" + type_name() + " object>"; }
  virtual bool is_callable() const { return false; }
  virtual Value call(const Args& args);
  // Absent: the object has no such attribute.
  virtual std::optional<Value> attribute(const std::string&) { return std::nullopt; }
  virtual std::optional<int64_t> length() { return std::nullopt; }
  virtual bool is_iterable() const { return false; }
  virtual Next iterate() { return nullptr; }
  virtual bool is_sequence() const { return false; }
  // obj[key] with an integer; absent when out of range.
  virtual std::optional<Value> item(int64_t) { return std::nullopt; }
  virtual int depth() const { return 1; }
  virtual bool equals(const Object& other) const { return this == &other; }
};

inline const std::string& Value::text() const { return str().text; }
inline bool Value::is_markup() const { return is_str() && str().markup; }
inline const std::vector<Value>& Value::items() const { return sequence()->items; }

Value make_str(std::string text, bool markup = false);
Value make_list(std::vector<Value> items);
Value make_tuple(std::vector<Value> items);
Value make_dict(std::vector<std::pair<Value, Value>> items);
Value make_undefined(std::string message, std::string type = "UndefinedError");
// Lazy, and empty after one pass, like a Python generator.
Value make_generator(Next next, int depth);
int depth_of(const Value& value);
// Throws Failure("LimitError") for a value that would nest too deeply.
int checked_depth(int depth);

}  // namespace edgewise::jinja
