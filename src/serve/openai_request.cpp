#include "serve/openai_request.h"

#include <algorithm>
#include <set>

#include "base/error.h"
#include "runtime/request_fields.h"

namespace edgewise {
namespace {

constexpr int kMaxChoices = 64;
constexpr size_t kMaxMessages = 4096;
constexpr size_t kMaxStops = 16;

// Fields of both calls, of one of them, and those that say something Edgewise has nothing to do for.
const std::set<std::string> kShared = {"model",
                                       "frequency_penalty",
                                       "presence_penalty",
                                       "logit_bias",
                                       "n",
                                       "stop",
                                       "seed",
                                       "stream",
                                       "stream_options",
                                       "temperature",
                                       "top_p",
                                       "max_tokens",
                                       "logprobs",
                                       "top_k",
                                       "min_p",
                                       "repetition_penalty",
                                       "ignore_eos",
                                       "priority",
                                       "response_format",
                                       "disable_spec_decode"};
const std::set<std::string> kChatOnly = {"messages",    "top_logprobs", "max_completion_tokens", "modalities",
                                         "tool_choice", "tools",        "parallel_tool_calls"};
const std::set<std::string> kTextOnly = {"prompt", "echo", "best_of", "suffix"};
const std::set<std::string> kWithoutInfluence = {"user",         "metadata",         "store",
                                                 "service_tier", "prompt_cache_key", "safety_identifier"};

void check_fields(const JsonView& body, ApiKind kind) {
  for (const auto& [key, value] : body.value().items()) {
    const auto& own = kind == ApiKind::kChat ? kChatOnly : kTextOnly;
    if (value.is_null() || kShared.contains(key) || own.contains(key) || kWithoutInfluence.contains(key)) continue;
    usage_error("the field \"{}\" is not supported", key);
  }
}

// Values that mean what happens anyway; others would be ignored, and are refused.
void check_fixed_values(const JsonView& body) {
  const auto refuse = [](const char* field, const std::string& why) { usage_error("{}: {}", field, why); };
  if (body.has("modalities") && body.value().at("modalities") != Json::array({"text"}))
    refuse("modalities", "only [\"text\"] is supported");
  if (body.has("best_of") && body.integer("best_of") != body.integer("n", 1)) refuse("best_of", "must equal n");
  if (body.has("suffix") && !body.string("suffix").empty()) refuse("suffix", "is not supported");
}

// An assistant's calls, with the arguments as the object that templates expect.
OrderedJson read_tool_calls(const OrderedJson& calls, const std::string& where) {
  OrderedJson result = OrderedJson::array();
  if (!calls.is_array()) usage_error("{}: tool_calls: expected an array", where);
  for (const OrderedJson& call : calls) {
    const auto function = call.is_object() ? call.find("function") : call.end();
    const auto has_text = [](const OrderedJson& object, const char* key) {
      return object.is_object() && object.contains(key) && object[key].is_string();
    };
    if (function == call.end() || !has_text(call, "id") || !has_text(*function, "name") ||
        !has_text(*function, "arguments")) {
      usage_error("{}: tool_calls: expected {{\"id\", \"type\", \"function\": {{\"name\", \"arguments\"}}}}", where);
    }
    const OrderedJson arguments =
        parse_ordered_json(function->at("arguments").get<std::string>(), where + ": tool_calls: arguments");
    if (!arguments.is_object()) usage_error("{}: tool_calls: arguments: expected a JSON object", where);
    result.push_back({{"id", call["id"]},
                      {"type", "function"},
                      {"function", {{"name", function->at("name")}, {"arguments", arguments}}}});
  }
  return result;
}

OrderedJson read_messages(const JsonView& body, const OrderedJson& ordered) {
  if (!body.has("messages") || !body.value().at("messages").is_array() || body.value().at("messages").empty()) {
    body.reject("messages", "an array of messages");
  }
  const Json& messages = body.value().at("messages");
  if (messages.size() > kMaxMessages) body.reject("messages", "at most 4096 messages");
  OrderedJson result = OrderedJson::array();
  for (size_t i = 0; i < messages.size(); ++i) {
    const JsonView message(messages[i], fmt::format("messages[{}]", i));
    if (!messages[i].is_object()) usage_error("{}: expected an object", message.where());
    for (const auto& [key, value] : messages[i].items()) {
      static const std::set<std::string> kKnown = {"role", "content", "name", "tool_calls", "tool_call_id"};
      if (!kKnown.contains(key) && !value.is_null()) {
        usage_error("{}: the field \"{}\" is not supported", message.where(), key);
      }
    }
    const std::string role = message.string("role");
    result.push_back({{"role", role == "developer" ? "system" : role},
                      {"content", message.has("content") ? read_text_content(message) : ""}});
    if (role == "tool") {
      result.back()["tool_call_id"] = message.string("tool_call_id");
      if (message.has("name")) result.back()["name"] = message.string("name");
    }
    if (!message.has("tool_calls") || messages[i]["tool_calls"].empty()) continue;
    if (role != "assistant") usage_error("{}: tool_calls: only the assistant has some", message.where());
    result.back()["tool_calls"] = read_tool_calls(ordered["messages"][i]["tool_calls"], message.where());
  }
  return result;
}

void read_logprobs(const JsonView& body, ApiCall& call, SamplingOptions& sampling) {
  if (call.kind == ApiKind::kText) {
    call.logprobs = body.has("logprobs");
    sampling.num_logprobs = call.logprobs ? std::max(int_field(body, "logprobs", 0), 1) : 0;
    return;
  }
  call.logprobs = body.boolean("logprobs", false);
  if (body.has("top_logprobs") && !call.logprobs) usage_error("top_logprobs: needs \"logprobs\": true");
  sampling.num_logprobs = call.logprobs ? std::max(int_field(body, "top_logprobs", 0), 1) : 0;
}

}  // namespace

std::vector<std::vector<int32_t>> read_texts(const JsonView& body, const std::string& field, const Session& session,
                                             std::vector<std::string>* texts) {
  constexpr std::string_view kExpected = "a string, strings, ids, or arrays of ids";
  if (!body.has(field)) body.reject(field, kExpected);
  const Json& value = body.value().at(field);
  const auto ids_of = [&](const Json& list) {
    std::vector<int32_t> ids;
    for (const Json& id : list) {
      if (!id.is_number_integer()) body.reject(field, kExpected);
      ids.push_back(static_cast<int32_t>(std::clamp<int64_t>(id.get<int64_t>(), -1, INT32_MAX)));
    }
    return ids;
  };
  const bool one = value.is_string() || (value.is_array() && !value.empty() && value[0].is_number());
  if (!one && !value.is_array()) body.reject(field, kExpected);
  std::vector<std::vector<int32_t>> result;
  for (const Json& item : one ? Json::array({value}) : value) {
    if (!item.is_string() && !item.is_array()) body.reject(field, kExpected);
    result.push_back(item.is_string() ? session.encode_text(item.get<std::string>()) : ids_of(item));
    if (texts == nullptr) continue;
    texts->push_back(item.is_string() ? item.get<std::string>() : session.tokenizer().decode(result.back(), true));
  }
  if (result.empty()) usage_error("{}: expected at least one", field);
  return result;
}

ApiCall parse_api_call(ApiKind kind, const std::string& text, const Session& session) {
  const Json document = parse_json(text, "the request");
  if (!document.is_object()) usage_error("the request: expected a JSON object");
  const JsonView body(document, "the request");
  const OrderedJson ordered = parse_ordered_json(text, "the request");  // where the order of fields matters
  check_fields(body, kind);
  check_fixed_values(body);
  ApiCall call;
  call.kind = kind;
  call.model = body.string("model", "");
  call.stream = body.boolean("stream", false);
  if (body.has("stream_options")) call.include_usage = body.at("stream_options").boolean("include_usage", false);
  Request request;
  request.sampling = session.recommended_sampling();
  read_sampling(body, request.sampling);
  read_logprobs(body, call, request.sampling);
  if (const auto format = read_response_format(ordered)) request.grammar = session.grammar(*format);
  request.stop = read_stop(body);
  if (request.stop.size() > kMaxStops) body.reject("stop", "at most 16 strings");
  request.ignore_eos = body.boolean("ignore_eos", false);
  request.disable_spec_decode = read_disable_spec_decode(body);
  request.priority = int_field(body, "priority", 0);
  // Chats end by themselves; a text of no given length is 16 tokens, as the API says.
  const int fallback = kind == ApiKind::kChat ? session.info().kv_capacity : 16;
  request.max_tokens =
      int_field(body, body.has("max_completion_tokens") ? "max_completion_tokens" : "max_tokens", fallback);
  const int n = int_field(body, "n", 1);
  if (n < 1 || n > kMaxChoices) usage_error("n: expected 1 to {}, found {}", kMaxChoices, n);

  std::vector<std::vector<int32_t>> prompts;
  if (kind == ApiKind::kChat) {
    call.tools = read_tool_use(ordered, session);
    if (call.tools && request.grammar)
      usage_error("response_format: can't be combined with \"tools\"; set \"tool_choice\": \"none\"");
    prompts.push_back(encode_conversation(session, read_messages(body, ordered), call.tools));
    if (call.tools) apply_tool_use(*call.tools, session, request);
  } else {
    call.echo = body.boolean("echo", false);
    prompts = read_texts(body, "prompt", session, &call.echoed);
    if (prompts.size() * static_cast<size_t>(n) > kMaxChoices)
      usage_error("prompt: more than {} answers asked for", kMaxChoices);
  }
  for (const auto& prompt : prompts) {
    request.prompt = prompt;
    for (int i = 0; i < n; ++i) {
      call.requests.push_back(request);
      if (request.sampling.seed) *call.requests.back().sampling.seed += static_cast<uint64_t>(i);
    }
  }
  return call;
}

}  // namespace edgewise
