#include "text/chat_template.h"

#include "text/jinja/failure.h"
#include "text/jinja/parser.h"
#include "text/jinja/renderer.h"
#include "text/jinja/unicode.h"

namespace edgewise {
namespace {

constexpr int kMaxInputDepth = 500;

std::tm local_time() {
  const std::time_t now = std::time(nullptr);
  std::tm out{};
  ::localtime_r(&now, &out);
  return out;
}

jinja::Value text_value(const std::string& text) {
  if (!jinja::is_valid_utf8(text)) usage_error("an input of the chat template is not valid UTF-8");
  return jinja::make_str(text);
}

jinja::Value to_value(const OrderedJson& json, int depth = 0) {
  if (depth > kMaxInputDepth) usage_error("an input of the chat template nests deeper than {} levels", kMaxInputDepth);
  switch (json.type()) {
    case OrderedJson::value_t::boolean:
      return json.get<bool>();
    case OrderedJson::value_t::number_integer:
      return json.get<int64_t>();
    case OrderedJson::value_t::number_unsigned:
      if (json.get<uint64_t>() > uint64_t{INT64_MAX}) {
        usage_error("an input of the chat template holds the integer {}, beyond 64 bits", json.get<uint64_t>());
      }
      return json.get<int64_t>();
    case OrderedJson::value_t::number_float:
      return json.get<double>();
    case OrderedJson::value_t::string:
      return text_value(json.get_ref<const std::string&>());
    case OrderedJson::value_t::array: {
      std::vector<jinja::Value> items;
      for (const OrderedJson& item : json) items.push_back(to_value(item, depth + 1));
      return jinja::make_list(std::move(items));
    }
    case OrderedJson::value_t::object: {
      std::vector<std::pair<jinja::Value, jinja::Value>> items;
      for (const auto& [key, item] : json.items()) items.emplace_back(text_value(key), to_value(item, depth + 1));
      return jinja::make_dict(std::move(items));
    }
    default:
      return {};
  }
}

}  // namespace

struct ChatTemplate::Program {
  jinja::Body body;
};

ChatTemplate::ChatTemplate(std::string name, std::string source, std::shared_ptr<const Program> program)
    : name_(std::move(name)), source_(std::move(source)), program_(std::move(program)), clock_(local_time) {}

ChatTemplate ChatTemplate::parse(const std::string& source, const std::string& name) {
  auto program = std::make_shared<const Program>(Program{jinja::parse(source, name)});
  return {name, source, std::move(program)};
}

void ChatTemplate::set_clock(std::function<std::tm()> clock) { clock_ = std::move(clock); }

std::string ChatTemplate::render(const OrderedJson& inputs) const {
  if (!inputs.is_object()) usage_error("the inputs of a chat template must be an object");
  jinja::Renderer renderer(program_->body, clock_);
  try {
    for (const auto& [name, value] : inputs.items()) renderer.set_input(name, to_value(value));
    return renderer.render();
  } catch (const jinja::RaisedFailure& failure) {
    throw TemplateRaised(
        fmt::format("{}:{}: the chat template refuses its input: {}", name_, renderer.line(), failure.message()),
        failure.message());
  } catch (const jinja::Failure& failure) {
    usage_error("{}:{}: {}: {}", name_, renderer.line(), failure.type(), failure.message());
  }
}

}  // namespace edgewise
