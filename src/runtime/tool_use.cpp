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

const OrderedJson& function_of(const OrderedJson& tool, size_t index) {
  const auto refuse = [&](const std::string& what) { usage_error("tools[{}]: {}", index, what); };
  if (!tool.is_object() || !tool.contains("type") || tool["type"] != "function")
    refuse("expected {\"type\": \"function\", \"function\": {...}}");
  if (!tool.contains("function") || !tool["function"].is_object()) refuse("function: expected an object");
  const OrderedJson& function = tool["function"];
  if (!function.contains("name") || !function["name"].is_string() || function["name"].get<std::string>().empty())
    refuse("function: name: expected a string");
  static const std::set<std::string> kKnown = {"name", "description", "parameters", "strict"};
  for (const auto& [key, value] : function.items()) {
    if (!kKnown.contains(key) && !value.is_null()) refuse("function: the field \"" + key + "\" is not supported");
  }
  return function;
}

bool is_strict(const OrderedJson& function) { return function.contains("strict") && function["strict"] == true; }

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
  const auto present = [&](const char* key) { return body.contains(key) && !body[key].is_null(); };
  const OrderedJson choice = present("tool_choice") ? body["tool_choice"] : OrderedJson("auto");
  const bool named = choice.is_object();
  if (!present("tools") || body["tools"].empty()) {
    if (named || choice == "required") usage_error("tool_choice: needs \"tools\"");
    return std::nullopt;
  }
  if (!body["tools"].is_array()) usage_error("tools: expected an array");
  if (body["tools"].size() > kMaxTools) usage_error("tools: expected at most {}", kMaxTools);
  if (choice == "none") return std::nullopt;

  ToolUse use;
  use.tools = body["tools"];
  use.one_call_only = present("parallel_tool_calls") && body["parallel_tool_calls"] == false;
  const auto form = tool_call_form(session.tool_template());
  if (!form) usage_error("tools: the form in which this model's chat template has functions called is not supported");
  use.form = *form;
  use.required = named || choice == "required";
  if (!use.required && choice != "auto")
    usage_error("tool_choice: expected \"none\", \"auto\", \"required\" or a function");
  std::string wanted;
  if (named) {
    const bool whole = choice.value("/type"_json_pointer, OrderedJson()) == "function" &&
                       choice.value("/function/name"_json_pointer, OrderedJson()).is_string();
    if (!whole) usage_error("tool_choice: expected {{\"type\": \"function\", \"function\": {{\"name\": \"...\"}}}}");
    wanted = choice["function"]["name"];
  }
  std::vector<OrderedJson> functions;
  for (size_t i = 0; i < use.tools.size(); ++i) {
    const OrderedJson& function = function_of(use.tools[i], i);
    if (named && function["name"] != wanted) continue;
    if (is_strict(function) && !use.required)
      usage_error("tools[{}]: function: strict: needs \"tool_choice\": \"required\" or a function", i);
    use.names.push_back(function["name"]);
    functions.push_back(function);
  }
  if (functions.empty()) usage_error("tool_choice: there is no tool \"{}\"", wanted);
  if (use.required) use.schema = call_schema(functions, use.form, use.one_call_only);
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
  } else if (const auto marker = session.tokenizer().token_to_id(tool_call_marker(tools.form))) {
    request.shown_tokens.push_back(*marker);
    if (const auto end = session.tokenizer().token_to_id("</tool_call>")) request.shown_tokens.push_back(*end);
  }
}

}  // namespace edgewise
