// Python's json.dumps.
#include <algorithm>
#include <cmath>

#include "text/jinja/failure.h"
#include "text/jinja/filters.h"
#include "text/jinja/methods.h"
#include "text/jinja/operators.h"
#include "text/jinja/unicode.h"

namespace edgewise::jinja {
namespace {

struct JsonStyle {
  bool ascii = false;
  bool sorted = false;
  bool indented = false;
  std::string indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};

class JsonWriter {
 public:
  explicit JsonWriter(JsonStyle style) : style_(std::move(style)) {}

  std::string take() { return std::move(out_); }

  void write(const Value& value, size_t level) {
    Budget::step();
    Budget::check_stack();
    Budget::check_text(out_.size());
    switch (value.kind()) {
      case Kind::kNone:
      case Kind::kBool:
      case Kind::kInt:
      case Kind::kFloat:
        out_ += scalar(value);
        break;
      case Kind::kStr:
        write_string(value.text());
        break;
      case Kind::kList:
      case Kind::kTuple:
        write_list(value.items(), level);
        break;
      case Kind::kDict:
        write_dict(value.dict(), level);
        break;
      default:
        type_error("Object of type {} is not JSON serializable", type_name(value));
    }
  }

 private:
  static std::string scalar(const Value& value) {
    if (value.is_none()) return "null";
    if (value.is(Kind::kBool)) return value.boolean() ? "true" : "false";
    if (value.is(Kind::kInt)) return std::to_string(value.integer());
    const double number = value.number();
    if (std::isnan(number)) return "NaN";
    if (std::isinf(number)) return number < 0 ? "-Infinity" : "Infinity";
    return float_repr(number);
  }

  void write_string(std::string_view text) {
    out_ += '"';
    for (size_t at = 0; at < text.size();) {
      const size_t start = at;
      const char32_t c = next_code_point(text, at);
      write_code_point(c, text.substr(start, at - start));
    }
    out_ += '"';
  }

  void write_code_point(char32_t c, std::string_view bytes) {
    static constexpr std::string_view kShort = "\"\"\\\\\nn\rr\tt\bb\ff";  // pairs: character, letter
    for (size_t i = 0; i < kShort.size(); i += 2) {
      if (c == static_cast<char32_t>(kShort[i])) {
        out_ += '\\';
        out_ += kShort[i + 1];
        return;
      }
    }
    const auto code = static_cast<uint32_t>(c);
    if (code >= 0x20 && (!style_.ascii || code < 0x7F)) {
      out_ += bytes;
    } else if (code < 0x10000) {
      out_ += fmt::format("\\u{:04x}", code);
    } else {
      out_ += fmt::format("\\u{:04x}\\u{:04x}", 0xD7C0 + (code >> 10), 0xDC00 + (code & 0x3FF));
    }
  }

  void new_line(size_t level) {
    if (!style_.indented) return;
    out_ += '\n';
    Budget::check_text(out_.size() + style_.indent.size() * level);
    for (size_t i = 0; i < level; ++i) out_ += style_.indent;
  }

  void write_list(const std::vector<Value>& items, size_t level) {
    if (items.empty()) {
      out_ += "[]";
      return;
    }
    out_ += '[';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      new_line(level + 1);
      write(items[i], level + 1);
    }
    new_line(level);
    out_ += ']';
  }

  void write_dict(const DictData& dict, size_t level) {
    if (dict.items.empty()) {
      out_ += "{}";
      return;
    }
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.items) entries.push_back(&entry);
    if (style_.sorted) {
      std::stable_sort(entries.begin(), entries.end(),
                       [](const auto* a, const auto* b) { return less(a->first, b->first); });
    }
    out_ += '{';
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      new_line(level + 1);
      write_key(entries[i]->first);
      out_ += style_.key_separator;
      write(entries[i]->second, level + 1);
    }
    new_line(level);
    out_ += '}';
  }

  void write_key(const Value& key) {
    if (key.is_str()) {
      write_string(key.text());
    } else if (key.is_none() || key.is_number()) {
      write_string(scalar(key));
    } else {
      type_error("keys must be str, int, float, bool or None, not {}", type_name(key));
    }
  }

  JsonStyle style_;
  std::string out_;
};

}  // namespace

Value dump_json(const Value& value, const Args& args) {
  const Signature given("tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"}, 0);
  JsonStyle style;
  style.ascii = given.boolean(0, false);
  style.sorted = given.boolean(3, false);
  if (const Value* indent = given[1]; indent != nullptr && !indent->is_none()) {
    style.indented = true;
    style.item_separator.resize(1);  // without the space
    if (indent->is_str()) {
      style.indent = indent->text();
    } else {
      const int64_t width = to_index(*indent);
      if (width > 1000) limit_error("an indentation of {}", width);
      style.indent.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
    }
  }
  if (const Value* separators = given[2]; separators != nullptr && !separators->is_none()) {
    const std::vector<Value> pair = to_vector(*separators);
    if (pair.size() != 2) value_error("separators must be a pair of strings");
    if (!pair[0].is_str() || !pair[1].is_str()) type_error("separators must be strings");
    style.item_separator = pair[0].text();
    style.key_separator = pair[1].text();
  }
  JsonWriter writer(std::move(style));
  writer.write(value, 0);
  return make_str(writer.take());
}

}  // namespace edgewise::jinja
