// Function calls in a model's reply: the forms that chat templates teach, and their parser.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace edgewise {

enum class ToolCallForm {
  kHermes,   // <tool_call>{"name": ..., "arguments": {...}}</tool_call>, again for every call (Hermes, Qwen)
  kLlama3,   // {"name": ..., "parameters": {...}}, further ones after ";"; possibly behind <|python_tag|>
  kMistral,  // [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]
  kJson,     // {"name": ..., "arguments": {...}} or an array of those: for templates that know nothing of tools
};

// Whether a chat template does something with the input "tools".
bool takes_tools(std::string_view chat_template);
// The form a template teaches; kJson for one that takes no tools, none when it teaches another form.
std::optional<ToolCallForm> tool_call_form(std::string_view chat_template);

// What stands before the JSON of a call; "" where nothing has to.
std::string_view tool_call_marker(ToolCallForm form);
// The member of a call that holds its arguments.
std::string_view arguments_key(ToolCallForm form);

struct ToolCallPiece {
  int index = 0;          // of the call in the reply
  std::string name;       // in a call's first piece, which has no arguments; else ""
  std::string arguments;  // the next piece of their JSON text
};

struct ReplyPiece {
  std::string content;  // what the reply says beside the calls
  std::vector<ToolCallPiece> calls;
};

// Takes a reply apart while it comes. What looks like a call and turns out not to be one is content.
class ToolCallParser {
 public:
  // Without a marker only JSON that names one of `names` is a call. `inside`: the reply begins behind the marker.
  ToolCallParser(ToolCallForm form, std::vector<std::string> names, bool inside);

  ReplyPiece push(std::string_view text);
  // The rest, after the reply's end.
  ReplyPiece finish();
  int calls() const { return calls_; }

 private:
  enum class State { kStart, kContent, kCalls, kPlain };

  bool advance(ReplyPiece& out);
  bool find_call(ReplyPiece& out);
  bool between_calls(ReplyPiece& out);
  bool read_call(ReplyPiece& out);
  void give_up(ReplyPiece& out, size_t end);

  ToolCallForm form_;
  std::vector<std::string> names_;
  State state_;
  bool marked_;  // the calls stand behind a marker
  bool behind_calls_ = false;
  std::string held_;  // not yet decided
  int calls_ = 0;     // whose names went out
  bool named_ = false;
  size_t sent_ = 0;  // bytes of the arguments under way
};

}  // namespace edgewise
