#include "cli/request_file.h"

#include <set>

#include "base/error.h"
#include "runtime/request_fields.h"

namespace edgewise {
namespace {

const std::set<std::string> kFileFields = {"batch_size",
                                           "temperature",
                                           "top_p",
                                           "top_k",
                                           "min_p",
                                           "max_generate_length",
                                           "apply_chat_template",
                                           "repetition_penalty",
                                           "presence_penalty",
                                           "frequency_penalty",
                                           "ignore_eos",
                                           "disable_spec_decode",
                                           "seed",
                                           "stop",
                                           "num_logprobs",
                                           "logit_bias",
                                           "requests",
                                           "response_format",
                                           "available_lora_weights"};
const std::set<std::string> kRequestFields = {"messages", "system_prompt", "lora_name", "save_system_prompt_kv_cache"};

void check_fields(const JsonView& object, bool is_request) {
  for (const auto& [key, value] : object.value().items()) {
    const bool known = kFileFields.contains(key) ? !is_request || (key != "requests" && key != "available_lora_weights")
                                                 : is_request && kRequestFields.contains(key);
    if (!known) usage_error("{}: the field \"{}\" is not supported", object.where(), key);
  }
}

// Messages with text contents; parts of {"type": "text"} are joined.
OrderedJson read_messages(const JsonView& object) {
  if (!object.has("messages") || !object.value().at("messages").is_array())
    object.reject("messages", "an array of messages");
  OrderedJson result = OrderedJson::array();
  if (object.has("system_prompt")) result.push_back({{"role", "system"}, {"content", object.string("system_prompt")}});
  const Json& messages = object.value().at("messages");
  for (size_t i = 0; i < messages.size(); ++i) {
    const JsonView message(messages[i], fmt::format("{}: messages[{}]", object.where(), i));
    result.push_back({{"role", message.string("role")}, {"content", read_text_content(message)}});
  }
  return result;
}

// Tokens the prompt shares with every other conversation under the same system message.
int system_prompt_tokens(const Session& session, const OrderedJson& messages, const std::vector<int32_t>& prompt) {
  if (messages.at(0).at("role") != "system") return 0;
  const auto other = session.encode_chat(OrderedJson::array({messages.at(0), {{"role", "user"}, {"content", "\x01"}}}));
  const auto end = std::mismatch(other.begin(), other.end(), prompt.begin(), prompt.end()).second;
  return static_cast<int>(end - prompt.begin());
}

// {"name": "directory of a PEFT adapter"}
std::map<std::string, std::filesystem::path> read_adapters(const JsonView& file) {
  std::map<std::string, std::filesystem::path> result;
  if (!file.has("available_lora_weights")) return result;
  const JsonView adapters = file.at("available_lora_weights");
  if (!adapters.value().is_object()) file.reject("available_lora_weights", "an object of names and paths");
  for (const auto& entry : adapters.value().items()) result[entry.key()] = adapters.string(entry.key());
  return result;
}

// `ordered` is the object once more, with its fields in the order of the file.
Request read_request(const JsonView& file, const JsonView& object, const OrderedJson& ordered_file,
                     const OrderedJson& ordered, const Session& session) {
  check_fields(object, true);
  Request request;
  request.sampling = session.recommended_sampling();
  read_sampling(file, request.sampling);
  read_sampling(object, request.sampling);
  request.stop = read_stop(object.has("stop") ? object : file);
  const JsonView& lengths = object.has("max_generate_length") ? object : file;
  request.max_tokens = int_field(lengths, "max_generate_length", 256);
  request.ignore_eos = object.boolean("ignore_eos", file.boolean("ignore_eos", false));
  request.disable_spec_decode = read_disable_spec_decode(object, read_disable_spec_decode(file));
  if (const auto format = read_response_format(object.has("response_format") ? ordered : ordered_file))
    request.grammar = session.grammar(*format);
  request.adapter = object.string("lora_name", "");
  if (!request.adapter.empty() && !read_adapters(file).contains(request.adapter)) {
    usage_error("lora_name \"{}\": available_lora_weights has no adapter of that name", request.adapter);
  }
  const OrderedJson messages = read_messages(object);
  if (messages.empty()) usage_error("the prompt is empty");
  if (object.boolean("apply_chat_template", file.boolean("apply_chat_template", true))) {
    request.prompt = session.encode_chat(messages);
    if (object.boolean("save_system_prompt_kv_cache", false)) {
      request.pin_tokens = system_prompt_tokens(session, messages, request.prompt);
    }
  } else {
    std::string text;
    for (const auto& message : messages) text += message.at("content").get<std::string>();
    request.prompt = session.encode_text(text);
  }
  return request;
}

OrderedJson logprobs_document(const std::vector<CompletionToken>& tokens) {
  OrderedJson result = OrderedJson::array();
  for (const CompletionToken& token : tokens) {
    OrderedJson alternatives = OrderedJson::array();
    for (const TokenLogprob& other : token.alternatives)
      alternatives.push_back({{"token", other.token}, {"logprob", other.logprob}});
    result.push_back({{"token", token.token}, {"logprob", token.logprob}, {"top", alternatives}});
  }
  return result;
}

}  // namespace

RequestFile parse_request_file(const std::string& text, const std::string& source, const Session& session) {
  const Json document = parse_json(text, source);
  const OrderedJson ordered = parse_ordered_json(text, source);
  const JsonView file(document, source);
  if (!document.is_object()) bad_file("{}: expected an object with \"requests\"", source);
  if (!file.has("requests") || !document.at("requests").is_array()) file.reject("requests", "an array of requests");
  check_fields(file, false);
  RequestFile result;
  result.batch_size =
      static_cast<int>(std::clamp<int64_t>(file.integer("batch_size", session.info().max_batch_size), 1, 1 << 20));
  result.adapters = read_adapters(file);
  const Json& requests = document.at("requests");
  for (size_t i = 0; i < requests.size(); ++i) {
    FileRequest entry;
    try {
      const JsonView view(requests[i], fmt::format("requests[{}]", i));
      if (!requests[i].is_object()) usage_error("{}: expected an object", view.where());
      entry.request = read_request(file, view, ordered, ordered.at("requests")[i], session);
    } catch (const Error& error) {
      entry.error = error.what();
    }
    result.requests.push_back(std::move(entry));
  }
  return result;
}

OrderedJson response_document(const RequestFile& file, const std::vector<Completion>& completions) {
  OrderedJson responses = OrderedJson::array();
  size_t next = 0;
  for (const FileRequest& entry : file.requests) {
    Completion failed;
    failed.finish = FinishReason::kError;
    failed.error = entry.error;
    const Completion& c = entry.error.empty() ? completions.at(next++) : failed;
    const auto generated = static_cast<double>(c.tokens.size());
    OrderedJson response = {{"output_text", c.text},
                            {"finish_reason", finish_reason_name(c.finish)},
                            {"prompt_tokens", c.prompt_tokens},
                            {"cached_tokens", c.cached_tokens},
                            {"tokens_generated", c.tokens.size()},
                            {"prefill_time_ms", c.prefill_seconds * 1e3},
                            {"decode_time_ms", c.decode_seconds * 1e3},
                            {"tokens_per_second", c.decode_seconds > 0 ? (generated - 1) / c.decode_seconds : 0.0},
                            {"output_ids", c.tokens}};
    if (c.drafted_tokens > 0) {
      response["drafted_tokens"] = c.drafted_tokens;
      response["accepted_tokens"] = c.accepted_tokens;
      response["verifications"] = c.verifications;
      response["speculation_switched_off"] = c.gave_up_drafting;
    }
    if (!c.logprobs.empty()) response["logprobs"] = logprobs_document(c.logprobs);
    if (!c.error.empty()) response["error"] = c.error;
    responses.push_back(std::move(response));
  }
  return {{"responses", responses}};
}

}  // namespace edgewise
