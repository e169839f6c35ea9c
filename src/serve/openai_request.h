// The bodies of /v1/chat/completions and /v1/completions (https://platform.openai.com/docs/api-reference). Every field
// is honoured or refused by name.
#pragma once

#include <string>
#include <vector>

#include "formats/json.h"
#include "runtime/tool_use.h"

namespace edgewise {

enum class ApiKind { kChat, kText };

struct ApiCall {
  ApiKind kind = ApiKind::kChat;
  std::string model;
  std::vector<Request> requests;  // n for each prompt, in the order of "choices"
  bool stream = false;
  bool include_usage = false;
  bool logprobs = false;
  bool echo = false;  // text only: the prompt stands before the answer
  std::vector<std::string> echoed;
  std::optional<ToolUse> tools;  // chat only
};

// A field that is a string, an array of strings, an array of ids, or an array of those: the ids of each, and in `texts`
// what they say. Throws Error(kUsage) naming the field.
std::vector<std::vector<int32_t>> read_texts(const JsonView& body, const std::string& field, const Session& session,
                                             std::vector<std::string>* texts = nullptr);

// Throws Error(kUsage) naming the field.
ApiCall parse_api_call(ApiKind kind, const std::string& body, const Session& session);

}  // namespace edgewise
