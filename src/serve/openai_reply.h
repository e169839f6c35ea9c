// Answers as the OpenAI API words them.
#pragma once

#include <string>

#include "serve/openai_request.h"

namespace edgewise {

struct ReplyHead {
  std::string id;
  std::string model;
  int64_t created = 0;  // seconds since 1970
};

struct ToolCall {
  std::string id;
  std::string name;
  std::string arguments;  // JSON text
};

// One choice's answer, taken apart.
struct ReplyText {
  std::string content;
  std::vector<ToolCall> calls;
};

// {"error": {"message", "type", "param", "code"}}
std::string error_body(std::string_view message, std::string_view type);

// The whole answer: one choice a completion.
std::string reply_body(const ApiCall& call, const ReplyHead& head, const std::vector<Completion>& completions,
                       const std::vector<ReplyText>& texts, const Tokenizer& tokenizer);

// Server-sent events of a streamed answer, "data: {...}\n\n".
std::string first_event(const ApiCall& call, const ReplyHead& head, size_t choice);
// `sent_tokens`: tokens whose log probabilities went out before.
std::string text_event(const ApiCall& call, const ReplyHead& head, size_t choice, const Completion& so_far,
                       size_t sent_tokens, std::string_view text, const Tokenizer& tokenizer);
// A call's name when `first`, else the next piece of its arguments.
std::string tool_event(const ApiCall& call, const ReplyHead& head, size_t choice, size_t index, const ToolCall& piece,
                       bool first);
std::string last_event(const ApiCall& call, const ReplyHead& head, size_t choice, const Completion& completion,
                       const ReplyText& text);
std::string usage_event(const ApiCall& call, const ReplyHead& head, const std::vector<Completion>& completions);
std::string error_event(const Completion& completion);
inline constexpr std::string_view kDoneEvent = "data: [DONE]\n\n";

}  // namespace edgewise
