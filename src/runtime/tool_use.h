// Function calling: from the API's "tools" and "tool_choice" to a prompt, a constraint and a parser.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "formats/json.h"
#include "runtime/session.h"
#include "text/tool_calls.h"

namespace edgewise {

struct ToolUse {
  OrderedJson tools;               // as the request has them; empty: the model is not told of any
  std::vector<std::string> names;  // functions that may be called
  ToolCallForm form = ToolCallForm::kJson;
  bool required = false;       // the reply is a call and nothing else
  std::string schema;          // of a call, when it is required or some function is strict
  bool one_call_only = false;  // further ones are dropped

  ToolCallParser parser() const { return {form, names, required}; }
};

// "tools", "tool_choice" and "parallel_tool_calls" of a request; none when there are no tools to call. Throws
// Error(kUsage) naming the field.
std::optional<ToolUse> read_tool_use(const OrderedJson& body, const Session& session);

// Ids of a conversation, whose messages may hold "tool_calls" (arguments as objects) and the role "tool", with the
// prompt for an answer behind it. Where the chat template knows nothing of tools, they are told in words.
std::vector<int32_t> encode_conversation(const Session& session, OrderedJson messages,
                                         const std::optional<ToolUse>& tools);

// Constrains and shows what the parser needs: the grammar of a required call, and special tokens that mark calls.
void apply_tool_use(const ToolUse& tools, const Session& session, Request& request);

}  // namespace edgewise
