#include "serve/openai_reply.h"

namespace edgewise {
namespace {

std::string dump(const OrderedJson& json) { return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace); }
std::string event(const OrderedJson& json) { return "data: " + dump(json) + "\n\n"; }

OrderedJson token_entry(int32_t token, float logprob, const Tokenizer& tokenizer) {
  const std::string text = tokenizer.decode(std::span(&token, 1), false);
  std::vector<int> bytes;
  for (const char c : text) bytes.push_back(static_cast<unsigned char>(c));
  return {{"token", text}, {"logprob", logprob}, {"bytes", bytes}};
}

OrderedJson logprobs_of(const ApiCall& call, std::span<const CompletionToken> tokens, const Tokenizer& tokenizer) {
  if (!call.logprobs) return nullptr;
  OrderedJson content = OrderedJson::array();
  for (const CompletionToken& token : tokens) {
    OrderedJson entry = token_entry(token.token, token.logprob, tokenizer);
    entry["top_logprobs"] = OrderedJson::array();
    for (const TokenLogprob& other : token.alternatives) {
      entry["top_logprobs"].push_back(token_entry(other.token, other.logprob, tokenizer));
    }
    content.push_back(std::move(entry));
  }
  if (call.kind == ApiKind::kChat) return {{"content", content}, {"refusal", nullptr}};
  OrderedJson texts = OrderedJson::array(), values = OrderedJson::array(), tops = OrderedJson::array();
  for (const OrderedJson& entry : content) {
    texts.push_back(entry["token"]);
    values.push_back(entry["logprob"]);
    OrderedJson top = OrderedJson::object();
    for (const OrderedJson& other : entry["top_logprobs"]) top[other["token"].get<std::string>()] = other["logprob"];
    tops.push_back(std::move(top));
  }
  return {{"tokens", texts}, {"token_logprobs", values}, {"top_logprobs", tops}};
}

OrderedJson head_of(const ApiCall& call, const ReplyHead& head, bool chunk) {
  const char* object = call.kind == ApiKind::kText ? "text_completion"
                       : chunk                     ? "chat.completion.chunk"
                                                   : "chat.completion";
  return {{"id", head.id}, {"object", object}, {"created", head.created}, {"model", head.model}};
}

// A reply that calls functions ends for the sake of them.
std::string_view finish_reason(const Completion& completion, const ReplyText& text) {
  return completion.finish == FinishReason::kStop && !text.calls.empty() ? "tool_calls"
                                                                         : finish_reason_name(completion.finish);
}

OrderedJson message_of(const ReplyText& text) {
  OrderedJson message = {{"role", "assistant"}, {"content", text.content}, {"refusal", nullptr}};
  if (text.calls.empty()) return message;
  if (text.content.empty()) message["content"] = nullptr;
  message["tool_calls"] = OrderedJson::array();
  for (const ToolCall& call : text.calls) {
    message["tool_calls"].push_back(
        {{"id", call.id}, {"type", "function"}, {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
  }
  return message;
}

OrderedJson usage_of(const ApiCall& call, const std::vector<Completion>& completions) {
  // The prompt of n choices counts once.
  int64_t prompt = 0, cached = 0, generated = 0;
  for (size_t i = 0; i < completions.size(); ++i) {
    generated += static_cast<int64_t>(completions[i].tokens.size());
    if (i > 0 && call.requests[i].prompt == call.requests[i - 1].prompt) continue;
    prompt += completions[i].prompt_tokens;
    cached += completions[i].cached_tokens;
  }
  return {{"prompt_tokens", prompt},
          {"completion_tokens", generated},
          {"total_tokens", prompt + generated},
          {"prompt_tokens_details", {{"cached_tokens", cached}}}};
}

OrderedJson chunk(const ApiCall& call, const ReplyHead& head, OrderedJson choices) {
  OrderedJson result = head_of(call, head, true);
  result["choices"] = std::move(choices);
  if (call.include_usage) result["usage"] = nullptr;
  return result;
}

}  // namespace

std::string error_body(std::string_view message, std::string_view type) {
  return dump({{"error", {{"message", message}, {"type", type}, {"param", nullptr}, {"code", nullptr}}}});
}

std::string reply_body(const ApiCall& call, const ReplyHead& head, const std::vector<Completion>& completions,
                       const std::vector<ReplyText>& texts, const Tokenizer& tokenizer) {
  OrderedJson result = head_of(call, head, false);
  result["choices"] = OrderedJson::array();
  for (size_t i = 0; i < completions.size(); ++i) {
    const Completion& c = completions[i];
    OrderedJson choice = {{"index", i}};
    if (call.kind == ApiKind::kChat) {
      choice["message"] = message_of(texts[i]);
    } else {
      const size_t per_prompt = call.requests.size() / call.echoed.size();
      choice["text"] = call.echo ? call.echoed[i / per_prompt] + texts[i].content : texts[i].content;
    }
    choice["logprobs"] = logprobs_of(call, c.logprobs, tokenizer);
    choice["finish_reason"] = finish_reason(c, texts[i]);
    result["choices"].push_back(std::move(choice));
  }
  result["usage"] = usage_of(call, completions);
  return dump(result);
}

std::string first_event(const ApiCall& call, const ReplyHead& head, size_t choice) {
  OrderedJson entry = {{"index", choice}};
  if (call.kind == ApiKind::kChat) {
    entry["delta"] = {{"role", "assistant"}, {"content", ""}};
  } else {
    if (!call.echo) return "";
    entry["text"] = call.echoed[choice / (call.requests.size() / call.echoed.size())];
  }
  entry["logprobs"] = nullptr;
  entry["finish_reason"] = nullptr;
  return event(chunk(call, head, OrderedJson::array({entry})));
}

std::string text_event(const ApiCall& call, const ReplyHead& head, size_t choice, const Completion& so_far,
                       size_t sent_tokens, std::string_view text, const Tokenizer& tokenizer) {
  OrderedJson entry = {{"index", choice}};
  if (call.kind == ApiKind::kChat) {
    entry["delta"] = {{"content", text}};
  } else {
    entry["text"] = text;
  }
  entry["logprobs"] =
      logprobs_of(call, std::span(so_far.logprobs).subspan(std::min(sent_tokens, so_far.logprobs.size())), tokenizer);
  entry["finish_reason"] = nullptr;
  return event(chunk(call, head, OrderedJson::array({entry})));
}

std::string tool_event(const ApiCall& call, const ReplyHead& head, size_t choice, size_t index, const ToolCall& piece,
                       bool first) {
  OrderedJson delta = {{"index", index}};
  if (first) {
    delta["id"] = piece.id;
    delta["type"] = "function";
    delta["function"] = {{"name", piece.name}, {"arguments", ""}};
  } else {
    delta["function"] = {{"arguments", piece.arguments}};
  }
  const OrderedJson entry = {{"index", choice},
                             {"delta", {{"tool_calls", OrderedJson::array({delta})}}},
                             {"logprobs", nullptr},
                             {"finish_reason", nullptr}};
  return event(chunk(call, head, OrderedJson::array({entry})));
}

std::string last_event(const ApiCall& call, const ReplyHead& head, size_t choice, const Completion& completion,
                       const ReplyText& text) {
  OrderedJson entry = {{"index", choice}};
  if (call.kind == ApiKind::kChat) {
    entry["delta"] = OrderedJson::object();
  } else {
    entry["text"] = "";
  }
  entry["logprobs"] = nullptr;
  entry["finish_reason"] = finish_reason(completion, text);
  return event(chunk(call, head, OrderedJson::array({entry})));
}

std::string usage_event(const ApiCall& call, const ReplyHead& head, const std::vector<Completion>& completions) {
  OrderedJson result = head_of(call, head, true);
  result["choices"] = OrderedJson::array();
  result["usage"] = usage_of(call, completions);
  return event(result);
}

std::string error_event(const Completion& completion) {
  return "data: " + error_body(completion.error, "server_error") + "\n\n";
}

}  // namespace edgewise
