#include "runtime/request_fields.h"

#include <algorithm>

#include "base/error.h"

namespace edgewise {

int int_field(const JsonView& object, const std::string& key, int64_t fallback) {
  return static_cast<int>(std::clamp<int64_t>(object.integer(key, fallback), INT32_MIN, INT32_MAX));
}

void read_sampling(const JsonView& object, SamplingOptions& s) {
  s.temperature = object.number("temperature", s.temperature);
  s.top_p = object.number("top_p", s.top_p);
  s.top_k = int_field(object, "top_k", s.top_k);
  s.min_p = object.number("min_p", s.min_p);
  s.repetition_penalty = object.number("repetition_penalty", s.repetition_penalty);
  s.presence_penalty = object.number("presence_penalty", s.presence_penalty);
  s.frequency_penalty = object.number("frequency_penalty", s.frequency_penalty);
  s.num_logprobs = int_field(object, "num_logprobs", s.num_logprobs);
  if (object.has("seed")) s.seed = static_cast<uint64_t>(object.integer("seed"));
  if (!object.has("logit_bias")) return;
  const JsonView bias = object.at("logit_bias");
  if (!bias.value().is_object()) object.reject("logit_bias", "an object of token ids and numbers");
  for (const auto& [key, value] : bias.value().items()) {
    if (key.empty() || key.size() > 9 || key.find_first_not_of("0123456789") != std::string::npos ||
        !value.is_number()) {
      bias.reject(key, "a token id and a number");
    }
    s.logit_bias[std::stoi(key)] = value.get<float>();
  }
}

bool read_disable_spec_decode(const JsonView& object, bool fallback) {
  return object.boolean("disable_spec_decode", fallback);
}

std::vector<std::string> read_stop(const JsonView& object) {
  if (!object.has("stop")) return {};
  const Json& stop = object.at("stop").value();
  std::vector<std::string> result;
  for (const Json& item : stop.is_array() ? stop : Json::array({stop})) {
    if (!item.is_string() || item.get_ref<const std::string&>().empty())
      object.reject("stop", "a string or an array of strings, none of them empty");
    result.push_back(item.get<std::string>());
  }
  return result;
}

std::optional<AnswerFormat> read_response_format(const OrderedJson& object) {
  if (!object.contains("response_format") || object["response_format"].is_null()) return std::nullopt;
  const OrderedJson& format = object["response_format"];
  const bool typed = format.is_object() && format.contains("type") && format["type"].is_string();
  const std::string type = typed ? format["type"].get<std::string>() : "";
  const auto check_fields = [&](std::string_view key) {
    for (const auto& [name, value] : format.items()) {
      if (name != "type" && name != key) usage_error("response_format: the field \"{}\" is not supported", name);
    }
  };
  const auto body = [&](const char* key) -> const OrderedJson& {
    check_fields(key);
    if (!format.contains(key)) usage_error("response_format: type \"{}\" needs \"{}\"", type, key);
    return format[key];
  };
  const auto text = [&](const char* key) {
    const OrderedJson& value = body(key);
    if (!value.is_string()) usage_error("response_format: {}: expected a string", key);
    return value.get<std::string>();
  };
  if (type == "text" || type == "json_object") {
    check_fields("");
    return type == "text" ? std::nullopt : std::optional(AnswerFormat{AnswerForm::kJsonObject, ""});
  }
  if (type == "regex") return AnswerFormat{AnswerForm::kRegex, text("regex")};
  if (type == "grammar") return AnswerFormat{AnswerForm::kEbnf, text("grammar")};
  if (type != "json_schema") {
    usage_error("response_format: type: expected \"text\", \"json_object\", \"json_schema\", \"regex\" or \"grammar\"");
  }
  const OrderedJson& named = body("json_schema");
  if (!named.is_object() || !named.contains("schema")) usage_error("response_format: json_schema: needs \"schema\"");
  for (const auto& [name, value] : named.items()) {
    // Answers always keep to the schema, strict or not.
    if (name == "schema" || name == "name" || name == "description" || name == "strict") continue;
    usage_error("response_format: json_schema: the field \"{}\" is not supported", name);
  }
  return AnswerFormat{AnswerForm::kJsonSchema, named["schema"].dump()};
}

std::string read_text_content(const JsonView& message) {
  if (!message.has("content") || !message.value().at("content").is_array()) return message.string("content");
  std::string text;
  for (const Json& part : message.value().at("content")) {
    const JsonView view(part, message.where() + ": content");
    if (view.string("type") != "text") {
      usage_error("{}: type \"{}\" is not supported", view.where(), view.string("type"));
    }
    text += view.string("text");
  }
  return text;
}

}  // namespace edgewise
