// The functions every template can call.
#include <algorithm>
#include <array>

#include "text/jinja/failure.h"
#include "text/jinja/methods.h"
#include "text/jinja/objects.h"
#include "text/jinja/operators.h"
#include "text/jinja/unicode.h"

namespace edgewise::jinja {
namespace {

constexpr int64_t kMaxRange = 100'000;  // jinja2's sandbox has the same

// A Python class as templates see it: callable, and little else.
class Type : public Function {
 public:
  Type(std::string name, Body body) : Function(name, std::move(body)), shown_("<class '" + name + "'>") {}
  std::string type_name() const override { return "type"; }
  std::string repr() const override { return shown_; }

 private:
  std::string shown_;
};

class Range : public Object {
 public:
  Range(int64_t start, int64_t stop, int64_t step) : start_(start), stop_(stop), step_(step) {
    const bool forward = step > 0;
    if (forward ? start >= stop : start <= stop) return;
    const uint64_t distance = forward ? static_cast<uint64_t>(stop) - static_cast<uint64_t>(start)
                                      : static_cast<uint64_t>(start) - static_cast<uint64_t>(stop);
    const uint64_t stride = forward ? static_cast<uint64_t>(step) : uint64_t{0} - static_cast<uint64_t>(step);
    const uint64_t count = (distance - 1) / stride + 1;
    if (count > kMaxRange) {
      overflow_error("Range too big. The sandbox blocks ranges larger than {}.", kMaxRange);
    }
    count_ = static_cast<int64_t>(count);
  }
  std::string type_name() const override { return "range"; }
  std::string repr() const override {
    const std::string bounds = fmt::format("range({}, {}", start_, stop_);
    return step_ == 1 ? bounds + ")" : fmt::format("{}, {})", bounds, step_);
  }
  std::optional<int64_t> length() override { return count_; }
  bool is_iterable() const override { return true; }
  bool is_sequence() const override { return true; }
  Next iterate() override {
    return [self = std::static_pointer_cast<Range>(shared_from_this()), i = int64_t{0}](Value& out) mutable {
      if (i >= self->count_) return false;
      Budget::step();
      out = self->start_ + i++ * self->step_;
      return true;
    };
  }
  std::optional<Value> item(int64_t index) override {
    if (index < 0) index += count_;
    if (index < 0 || index >= count_) return std::nullopt;
    return Value(start_ + index * step_);
  }
  bool equals(const Object& other) const override {
    const auto* range = dynamic_cast<const Range*>(&other);
    if (range == nullptr || range->count_ != count_) return false;
    return count_ == 0 || (range->start_ == start_ && (count_ == 1 || range->step_ == step_));
  }
  std::optional<Value> attribute(const std::string& name) override {
    if (name == "start") return Value(start_);
    if (name == "stop") return Value(stop_);
    if (name == "step") return Value(step_);
    return std::nullopt;
  }

 private:
  int64_t start_;
  int64_t stop_;
  int64_t step_;
  int64_t count_ = 0;
};

// cycler("odd", "even"): next() goes round.
class Cycler : public Object {
 public:
  explicit Cycler(const Value& items) : items_(items) {}
  std::string type_name() const override { return "Cycler"; }
  int depth() const override { return depth_of(items_) + 1; }
  std::optional<Value> attribute(const std::string& name) override {
    const auto self = std::static_pointer_cast<Cycler>(shared_from_this());
    if (name == "current") return items_.items()[at_];
    if (name == "items") return items_;
    if (name == "pos") return Value(static_cast<int64_t>(at_));
    if (name == "next") {
      return make_function(
          "next",
          [self](const Args&) {
            const Value item = self->items_.items()[self->at_];
            self->at_ = (self->at_ + 1) % self->items_.items().size();
            return item;
          },
          checked_depth(depth() + 1));
    }
    if (name == "reset") {
      return make_function(
          "reset",
          [self](const Args&) {
            self->at_ = 0;
            return Value();
          },
          checked_depth(depth() + 1));
    }
    return std::nullopt;
  }

 private:
  Value items_;
  size_t at_ = 0;
};

Value make_range(const Args& args) {
  const Signature given("range", args, {"start", "stop", "step"}, 1, 3);
  const int64_t first = to_index(*given[0]);
  const int64_t step = given.integer(2, 1);
  if (step == 0) value_error("range() arg 3 must not be zero");
  const bool only_stop = given[1] == nullptr;
  return ObjectPtr(std::make_shared<Range>(only_stop ? 0 : first, only_stop ? first : to_index(*given[1]), step));
}

Value make_cycler(const Args& args) {
  if (!args.named.empty()) type_error("cycler() takes no keyword arguments");
  if (args.positional.empty()) runtime_error("at least one item has to be provided");
  return ObjectPtr(std::make_shared<Cycler>(make_tuple(args.positional)));
}

Value make_joiner(const Args& args) {
  const Signature given("joiner", args, {"sep"}, 0);
  const Value separator = given.get(0, make_str(", "));
  return make_function(
      "joiner",
      [separator, used = false](const Args&) mutable { return std::exchange(used, true) ? separator : make_str(""); },
      checked_depth(depth_of(separator) + 1));
}

Value raise_exception(const Args& args) {
  const Signature given("raise_exception", args, {"message"}, 1);
  throw RaisedFailure(to_text(*given[0]));
}

Value format_time(const Args& args, const Clock& clock) {
  const Signature given("strftime_now", args, {"format"}, 1);
  if (!given[0]->is_str()) type_error("strftime() argument 1 must be str, not {}", type_name(*given[0]));
  const std::string& format = given[0]->text();
  if (format.size() > 1000) limit_error("a time format of {} bytes", format.size());
  const std::tm now = clock();
  std::array<char, 16384> buffer{};
  // A format may well give no text; the space in front tells that from a buffer too small.
  const size_t size = std::strftime(buffer.data(), buffer.size(), (" " + format).c_str(), &now);
  if (size == 0) limit_error("a time text too long");
  std::string text(buffer.data() + 1, size - 1);
  if (!is_valid_utf8(text)) value_error("the time format gives invalid UTF-8");
  return make_str(std::move(text));
}

Value make_type(std::string name, Function::Body body) {
  return ObjectPtr(std::make_shared<Type>(std::move(name), std::move(body)));
}

}  // namespace

std::vector<std::pair<Value, Value>> dict_items(const Args& args) {
  if (args.positional.size() > 1) type_error("dict expected at most 1 argument, got {}", args.positional.size());
  std::vector<std::pair<Value, Value>> items;
  if (!args.positional.empty()) {
    const Value& source = args.positional[0];
    if (source.is(Kind::kDict)) {
      items = source.dict().items;
    } else {
      const Next next = iterate(source);
      for (Value item; next(item);) {
        const std::vector<Value> pair = to_vector(item);
        if (pair.size() != 2)
          value_error("dictionary update sequence element has length {}; 2 is required", pair.size());
        items.emplace_back(pair[0], pair[1]);
      }
    }
  }
  for (const auto& [name, value] : args.named) items.emplace_back(make_str(name), value);
  return items;
}

std::vector<std::pair<std::string, Value>> make_globals(const Clock& clock) {
  return {
      {"range", make_type("range", make_range)},
      {"dict", make_type("dict", [](const Args& args) { return make_dict(dict_items(args)); })},
      {"cycler", make_type("jinja2.utils.Cycler", make_cycler)},
      {"joiner", make_type("jinja2.utils.Joiner", make_joiner)},
      {"raise_exception", make_function("raise_exception", raise_exception)},
      {"strftime_now", make_function("strftime_now", [clock](const Args& args) { return format_time(args, clock); })},
  };
}

}  // namespace edgewise::jinja
