#include "formats/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <limits>
#include <map>
#include <optional>
#include <sstream>
#include <vector>

#include "base/error.h"
#include "base/mapped_file.h"

namespace edgewise {
namespace {

constexpr size_t kMaxBytes = size_t{4} << 20;
constexpr size_t kMaxYamlDepth = 64;
constexpr size_t kMaxNodes = 200'000;  // aliases counted at every use, so that few lines can't become gigabytes
constexpr size_t kMaxTotalBytes = size_t{64} << 20;  // of scalars, likewise

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// Strict: no overlong forms, no surrogates. Control characters YAML forbids are refused too.
void check_text(std::string_view text, const std::string& source) {
  int line = 1;
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const size_t size = lead < 0x80 ? 1 : lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    bool valid = lead < 0x80 || (lead >= 0xC2 && lead <= 0xF4 && i + size <= text.size());
    for (size_t k = 1; valid && k < size; ++k) valid = is_continuation(text[i + k]);
    if (valid && size > 2) {
      const auto second = static_cast<unsigned char>(text[i + 1]);
      valid = !(lead == 0xE0 && second < 0xA0) && !(lead == 0xED && second > 0x9F) &&
              !(lead == 0xF0 && second < 0x90) && !(lead == 0xF4 && second > 0x8F);
    }
    if (!valid) bad_file("{}:{}: not valid UTF-8", source, line);
    const bool control = lead < 0x20 && lead != '\t' && lead != '\n' && lead != '\r';
    if (control || lead == 0x7F) bad_file("{}:{}: the control character {:#04x}", source, line, int{lead});
    line += lead == '\n' ? 1 : 0;
    i += size;
  }
}

bool is_one_of(std::string_view text, std::initializer_list<std::string_view> words) {
  for (const std::string_view word : words) {
    if (text == word) return true;
  }
  return false;
}

std::optional<Json> parse_integer(std::string_view text) {
  std::string_view digits = text;
  int base = 10;
  if (digits.starts_with("0x")) base = 16;
  if (digits.starts_with("0o")) base = 8;
  if (base != 10) digits.remove_prefix(2);
  if (base == 10 && digits.starts_with('+')) digits.remove_prefix(1);
  if (digits.empty() || (digits[0] == '-' && base != 10) || (text[0] == '+' && digits[0] == '-')) return std::nullopt;
  int64_t value = 0;
  const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (result.ptr != digits.data() + digits.size() || result.ec != std::errc()) return std::nullopt;
  return Json(value);
}

// [-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?
std::optional<Json> parse_float(std::string_view text) {
  if (is_one_of(text, {".nan", ".NaN", ".NAN"})) return Json(std::numeric_limits<double>::quiet_NaN());
  std::string_view rest = text;
  const bool negative = rest.starts_with('-');
  if (negative || rest.starts_with('+')) rest.remove_prefix(1);
  if (is_one_of(rest, {".inf", ".Inf", ".INF"})) {
    const double infinity = std::numeric_limits<double>::infinity();
    return Json(negative ? -infinity : infinity);
  }
  if (rest.empty() || rest.find_first_not_of("0123456789.eE+-") != std::string_view::npos) return std::nullopt;
  const bool starts =
      (rest[0] >= '0' && rest[0] <= '9') || (rest[0] == '.' && rest.size() > 1 && rest[1] >= '0' && rest[1] <= '9');
  if (!starts) return std::nullopt;
  double value = 0;
  const auto result = std::from_chars(rest.data(), rest.data() + rest.size(), value);
  if (result.ptr != rest.data() + rest.size() || result.ec == std::errc::invalid_argument) return std::nullopt;
  if (result.ec == std::errc::result_out_of_range) value = std::strtod(std::string(rest).c_str(), nullptr);
  return Json(negative ? -value : value);
}

// A plain scalar by YAML's core schema.
Json typed_scalar(const std::string& text) {
  if (is_one_of(text, {"", "~", "null", "Null", "NULL"})) return nullptr;
  if (is_one_of(text, {"true", "True", "TRUE"})) return true;
  if (is_one_of(text, {"false", "False", "FALSE"})) return false;
  if (auto integer = parse_integer(text)) return *std::move(integer);
  if (auto number = parse_float(text)) return *std::move(number);
  return text;
}

// Builds the document from the parser's events, counting as it goes.
class Builder : public YAML::EventHandler {
 public:
  explicit Builder(const std::string& source) : source_(source) {}

  Json take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override { add(mark, anchor, nullptr, ""); }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    // "?" marks a plain scalar without tag, "!" one in quotes.
    const bool plain = tag == "?" || tag.empty();
    const bool known = plain || tag == "!" || tag == "tag:yaml.org,2002:str";
    if (!known) fail(mark, fmt::format("the tag {}: only plain values are supported", tag));
    add(mark, anchor, plain ? typed_scalar(value) : Json(value), value);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) fail(mark, "an alias within what it stands for");
    const auto& [value, nodes, bytes, height] = found->second;
    nodes_ += nodes;
    bytes_ += bytes;
    if (open_.size() + height > kMaxYamlDepth) fail(mark, fmt::format("more than {} levels of nesting", kMaxYamlDepth));
    add(mark, 0, value, value.is_string() ? value.get<std::string>() : "");
    if (!open_.empty()) open_.back().height = std::max(open_.back().height, height + 1);
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, Json::array());
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, Json::object());
  }
  void OnMapEnd() override { close(); }

 private:
  struct Open {
    Json value;
    YAML::Mark mark;
    YAML::anchor_t anchor;
    size_t nodes_before;
    size_t bytes_before;
    size_t height = 1;
    bool has_key = false;
    std::string key;
  };
  struct Anchored {
    Json value;
    size_t nodes;
    size_t bytes;
    size_t height;
  };

  [[noreturn]] void fail(const YAML::Mark& mark, const std::string& message) const {
    bad_file("{}:{}: {}", source_, mark.line + 1, message);
  }

  void count(const YAML::Mark& mark) {
    if (bytes_ > kMaxTotalBytes) fail(mark, fmt::format("more than {} MB, aliases counted", kMaxTotalBytes >> 20));
    if (++nodes_ > kMaxNodes) fail(mark, fmt::format("more than {} values, aliases counted", kMaxNodes));
  }

  void open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, Json value) {
    count(mark);
    if (tag != "?" && tag != "!" && !tag.empty())
      fail(mark, fmt::format("the tag {}: only plain values are supported", tag));
    if (open_.size() >= kMaxYamlDepth) fail(mark, fmt::format("more than {} levels of nesting", kMaxYamlDepth));
    if (!open_.empty() && open_.back().value.is_object() && !open_.back().has_key)
      fail(mark, "a key that is no scalar");
    open_.push_back({std::move(value), mark, anchor, nodes_, bytes_, 1, false, ""});
  }

  void close() {
    Open done = std::move(open_.back());
    open_.pop_back();
    if (done.anchor != 0) {  // keeps a copy, which counts like any
      const size_t nodes = nodes_ - done.nodes_before + 1;
      const size_t bytes = bytes_ - done.bytes_before;
      nodes_ += nodes;
      bytes_ += bytes;
      anchors_[done.anchor] = {done.value, nodes, bytes, done.height};
    }
    if (!open_.empty()) open_.back().height = std::max(open_.back().height, done.height + 1);
    place(done.mark, std::move(done.value));
  }

  // `text` is the scalar as written, for where it turns out to be a key.
  void add(const YAML::Mark& mark, YAML::anchor_t anchor, Json value, const std::string& text) {
    bytes_ += text.size();
    count(mark);
    if (anchor != 0) {
      bytes_ += text.size();
      anchors_[anchor] = {value, 1, text.size(), 0};
    }
    if (!open_.empty() && open_.back().value.is_object() && !open_.back().has_key) {
      if (value.is_structured()) fail(mark, "a key that is no scalar");
      Open& map = open_.back();
      map.key = value.is_null() && text.empty() ? "null" : text;
      if (map.value.contains(map.key)) fail(mark, fmt::format("the key \"{}\" stands twice", map.key));
      map.has_key = true;
      return;
    }
    place(mark, std::move(value));
  }

  void place(const YAML::Mark&, Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (open_.back().value.is_array()) {
      open_.back().value.push_back(std::move(value));
    } else {
      open_.back().value[open_.back().key] = std::move(value);
      open_.back().has_key = false;
    }
  }

  const std::string& source_;
  std::vector<Open> open_;
  std::map<YAML::anchor_t, Anchored> anchors_;
  Json root_;
  size_t nodes_ = 0;
  size_t bytes_ = 0;
};

}  // namespace

Json parse_yaml(std::string_view text, const std::string& source) {
  if (text.size() > kMaxBytes) bad_file("{}: {} bytes, expected at most {}", source, text.size(), kMaxBytes);
  check_text(text, source);
  std::istringstream stream{std::string(text)};
  try {
    YAML::Parser parser(stream);
    Builder builder(source);
    parser.HandleNextDocument(builder);
    Builder second(source);
    if (parser.HandleNextDocument(second)) bad_file("{}: more than one document", source);
    return builder.take();
  } catch (const YAML::Exception& error) {
    bad_file("{}:{}: not valid YAML: {}", source, error.mark.line + 1, error.msg);
  }
}

Json read_yaml_file(const std::filesystem::path& path) {
  return parse_yaml(read_text_file(path, kMaxBytes), path.string());
}

}  // namespace edgewise
