#include "runtime/tool_use.h"

#include <algorithm>
#include <set>

#include "base/error.h"

namespace edgewise {
namespace {

constexpr size_t kMaxTools = 128;
constexpr int kMaxRequiredCalls = 8;

// References of a schema that moves to `place` within another document.
void move_references(OrderedJson& schema, const std::string& place) {
  if (schema.is_array()) {
    for (OrderedJson& item : schema) move_references(item, place);
  }
  if (!schema.is_object()) return;
  for (auto& [key, value] : schema.items()) {
    const bool data = key == "const" || key == "enum" || key == "default" || key == "examples";
    if (key == "$ref" && value.is_string() && value.get_ref<const std::string&>().starts_with('#')) {
      value = "#" + place + value.get<std::string>().substr(1);
    } else if (!data) {
      move_references(value, place);
    }
  }
}

// The JSON of a call of one of `functions`, or an array of those where the model's form is one.
std::string call_schema(const std::vector<OrderedJson>& functions, ToolCallForm form, bool one_call_only) {
  const bool array = form == ToolCallForm::kMistral;
  const std::string key(arguments_key(form));
  OrderedJson calls = OrderedJson::array();
  for (size_t i = 0; i < functions.size(); ++i) {
    OrderedJson parameters = functions[i].value("parameters", OrderedJson{{"type", "object"}});
    if (parameters.is_object() && parameters.empty()) parameters["type"] = "object";
    move_references(parameters, fmt::format("{}/anyOf/{}/properties/{}", array ? "/items" : "", i, key));
    calls.push_back({{"type", "object"},
                     {"properties", {{"name", {{"const", functions[i].at("name")}}}, {key, std::move(parameters)}}},
                     {"required", OrderedJson::array({"name", key})}});
  }
  OrderedJson schema = {{"anyOf", std::move(calls)}};
  if (array) {
    schema = {{"type", "array"},
              {"items", std::move(schema)},
              {"minItems", 1},
              {"maxItems", one_call_only ? 1 : kMaxRequiredCalls}};
  }
  return schema.dump();
}

OrderedJson& check_function(OrderedJson& tool, size_t index) {
  const auto refuse = [&](const std::string& what) { usage_error("tools[{}]: {}", index, what); };
  if (!tool.is_object() || !tool.contains("type") || tool["type"] != "function")
    refuse("expected {\"type\": \"function\", \"function\": {...}}");
  if (!tool.contains("function") || !tool["function"].is_object()) refuse("function: expected an object");
  OrderedJson& function = tool["function"];
  if (!function.contains("name") || !function["name"].is_string() || function["name"].get<std::string>().empty())
    refuse("function: name: expected a string");
  static const std::set<std::string> kKnown = {"name", "description", "parameters", "strict"};
  for (const auto& [key, value] : function.items()) {
    if (!kKnown.contains(key) && !value.is_null()) refuse("function: the field \"" + key + "\" is not supported");
  }
  return function;
}

bool present(const OrderedJson& body, const char* key) { return body.contains(key) && !body[key].is_null(); }

struct Choice {
  bool none = false;
  bool required = false;
  std::string function{};  // the only one that may be called
};

Choice read_choice(const OrderedJson& body) {
  if (!present(body, "tool_choice") || body["tool_choice"] == "auto") return {};
  const OrderedJson& choice = body["tool_choice"];
  if (choice == "none") return {.none = true};
  if (choice == "required") return {.required = true};
  const bool named = choice.is_object() && choice.contains("type") && choice["type"] == "function" &&
                     choice.contains("function") && choice["function"].is_object() &&
                     choice["function"].contains("name") && choice["function"]["name"].is_string();
  if (!named) {
    usage_error(
        "tool_choice: expected \"none\", \"auto\", \"required\" or {{\"type\": \"function\", \"function\": {{\"name\": "
        "\"...\"}}}}");
  }
  return {.required = true, .function = choice["function"]["name"]};
}

// The functions that may be called, and the schema of their calls where they are held to one.
void read_functions(ToolUse& use, const std::string& wanted) {
  std::vector<OrderedJson> functions;
  bool any_strict = false;
  for (size_t i = 0; i < use.tools.size(); ++i) {
    OrderedJson& function = check_function(use.tools[i], i);
    const bool strict = function.contains("strict") && function["strict"] == true;
    function.erase("strict");  // none of the model's business
    if (!wanted.empty() && function["name"] != wanted) continue;
    if (strict && use.form == ToolCallForm::kMistral && !use.required)
      usage_error("tools[{}]: function: strict: this model needs \"tool_choice\": \"required\" for it", i);
    any_strict |= strict;
    use.names.push_back(function["name"]);
    functions.push_back(function);
    if (!strict && !use.required) functions.back()["parameters"] = OrderedJson{{"type", "object"}};
  }
  if (functions.empty()) usage_error("tool_choice: there is no tool \"{}\"", wanted);
  if (use.required || any_strict) use.schema = call_schema(functions, use.form, use.one_call_only);
}

// What the template does not say for itself.
std::string describe_tools(const OrderedJson& tools) {
  std::string text =
      "You can call functions. To call one, answer with nothing but a JSON object {\"name\": the function's name, "
      "\"arguments\": an object of its arguments}. The functions:";
  for (const OrderedJson& tool : tools) text += "\n" + tool.at("function").dump();
  return text;
}

void tell_in_words(OrderedJson& messages, const std::optional<ToolUse>& tools) {
  for (OrderedJson& message : messages) {
    if (message.contains("tool_calls")) {
      std::string text = message["content"];
      for (const OrderedJson& call : message["tool_calls"]) {
        if (!text.empty()) text += "\n";
        text += OrderedJson{{"name", call["function"]["name"]}, {"arguments", call["function"]["arguments"]}}.dump();
      }
      message = {{"role", "assistant"}, {"content", text}};
    } else if (message["role"] == "tool") {
      message = {{"role", "user"}, {"content", "The function's result: " + message["content"].get<std::string>()}};
    }
  }
  if (!tools) return;
  const std::string text = describe_tools(tools->tools);
  if (messages[0]["role"] == "system") {
    messages[0]["content"] = messages[0]["content"].get<std::string>() + "\n\n" + text;
  } else {
    messages.insert(messages.begin(), OrderedJson{{"role", "system"}, {"content", text}});
  }
}

}  // namespace

std::optional<ToolUse> read_tool_use(const OrderedJson& body, const Session& session) {
  const Choice choice = read_choice(body);
  if (!present(body, "tools") || body["tools"].empty()) {
    if (choice.required) usage_error("tool_choice: needs \"tools\"");
    return std::nullopt;
  }
  if (!body["tools"].is_array()) usage_error("tools: expected an array");
  if (body["tools"].size() > kMaxTools) usage_error("tools: expected at most {}", kMaxTools);
  if (choice.none) return std::nullopt;
  const auto form = tool_call_form(session.tool_template());
  if (!form) usage_error("tools: the form in which this model's chat template has functions called is not supported");
  ToolUse use;
  use.tools = body["tools"];
  use.form = *form;
  use.required = choice.required;
  use.one_call_only = present(body, "parallel_tool_calls") && body["parallel_tool_calls"] == false;
  read_functions(use, choice.function);
  return use;
}

std::vector<int32_t> encode_conversation(const Session& session, OrderedJson messages,
                                         const std::optional<ToolUse>& tools) {
  const bool in_words = !takes_tools(session.tool_template());
  if (in_words) tell_in_words(messages, tools);
  std::vector<int32_t> ids = session.encode_chat(messages, tools && !in_words ? tools->tools : OrderedJson());
  // A required call's marker is not left to the model.
  if (tools && tools->required && tools->form != ToolCallForm::kLlama3) {
    const auto marker = session.tokenizer().encode(tool_call_marker(tools->form), false);
    ids.insert(ids.end(), marker.begin(), marker.end());
  }
  return ids;
}

void apply_tool_use(const ToolUse& tools, const Session& session, Request& request) {
  if (tools.required) {
    request.grammar = session.grammar({AnswerForm::kJsonSchema, tools.schema});
    return;
  }
  if (!tools.schema.empty()) {
    const bool marked = tools.form == ToolCallForm::kHermes;
    const ValueFrame frame{marked ? "<tool_call>" : "", marked ? "</tool_call>" : "",
                           tools.form == ToolCallForm::kLlama3 ? ";" : ""};
    request.grammar = session.grammar({AnswerForm::kValuesInText, tools.schema, frame});
  }
  if (const auto marker = session.tokenizer().token_to_id(tool_call_marker(tools.form))) {
    request.shown_tokens.push_back(*marker);
    if (const auto end = session.tokenizer().token_to_id("</tool_call>")) request.shown_tokens.push_back(*end);
  }
}

}  // namespace edgewise
