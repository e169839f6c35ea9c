#include "text/tool_calls.h"

#include <algorithm>

#include "base/error.h"
#include "formats/json.h"

namespace edgewise {
namespace {

constexpr std::string_view kSpace = " \t\r\n";
constexpr std::string_view kBetween = " \t\r\n[,;";  // calls, and before the first
constexpr std::string_view kHermesEnd = "</tool_call>";

bool is_word(char c) { return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// The part of a JSON object that has arrived.
struct CallScan {
  enum class State { kIncomplete, kComplete, kInvalid };
  State state = State::kIncomplete;
  size_t end = 0;  // behind the object, or where it goes wrong
  std::optional<std::string> name;
  std::string_view arguments;  // their JSON text as far as it is there
  bool arguments_done = false;
};

class CallScanner {
 public:
  explicit CallScanner(std::string_view text) : text_(text) {}

  CallScan scan() {
    ++pos_;  // the brace
    for (bool first = true;; first = false) {
      if (!skip_space()) return scan_;
      if (text_[pos_] == '}') return end(CallScan::State::kComplete);
      if (!first && (text_[pos_++] != ',' || !skip_space())) return end(unless_incomplete());
      const auto key = string();
      if (!key || !skip_space() || text_[pos_++] != ':' || !skip_space()) return end(unless_incomplete());
      if (!member(*key)) return end(unless_incomplete());
    }
  }

 private:
  CallScan end(CallScan::State state) {
    scan_.state = state;
    scan_.end = state == CallScan::State::kComplete ? pos_ + 1 : pos_;
    return scan_;
  }
  // What stopped the scan: the end of what has arrived, or something that can't be there.
  CallScan::State unless_incomplete() const {
    return pos_ >= text_.size() ? CallScan::State::kIncomplete : CallScan::State::kInvalid;
  }

  bool member(const std::string& key) {
    const size_t begin = pos_;
    if (key == "name") {
      const auto name = string();
      if (!scan_.name) scan_.name = name;  // the first one went out
      return name.has_value();
    }
    const bool done = skip_value();
    if ((key == "arguments" || key == "parameters") && !scan_.arguments_done) {  // as with names
      scan_.arguments = text_.substr(begin, pos_ - begin);
      scan_.arguments_done = done;
    }
    return done;
  }

  bool skip_space() {
    pos_ = std::min(text_.find_first_not_of(kSpace, pos_), text_.size());
    return pos_ < text_.size();
  }

  std::optional<std::string> string() {
    const size_t begin = pos_;
    if (pos_ >= text_.size() || text_[pos_] != '"' || !skip_string()) return std::nullopt;
    const Json value = Json::parse(text_.substr(begin, pos_ - begin), nullptr, false);
    if (value.is_string()) return value.get<std::string>();
    pos_ = begin;
    return std::nullopt;
  }

  bool skip_string() {
    for (++pos_; pos_ < text_.size(); ++pos_) {
      if (text_[pos_] == '\\') {
        ++pos_;
      } else if (text_[pos_] == '"') {
        ++pos_;
        return true;
      }
    }
    pos_ = text_.size();
    return false;
  }

  // By brackets alone: arguments are passed on as the model wrote them.
  bool skip_value() {
    int depth = 0;
    while (pos_ < text_.size()) {
      const char c = text_[pos_];
      if (c == '"') {
        if (!skip_string()) return false;
      } else if (depth == 0 && (c == ',' || c == '}' || c == ']')) {
        return true;
      } else {
        depth += c == '{' || c == '[' ? 1 : c == '}' || c == ']' ? -1 : 0;
        ++pos_;
      }
      if (depth == 0 && (text_[pos_ - 1] == '}' || text_[pos_ - 1] == ']' || text_[pos_ - 1] == '"')) return true;
    }
    return false;
  }

  std::string_view text_;
  size_t pos_ = 0;
  CallScan scan_;
};

// Some models write the arguments as a string of JSON; then they are that string's text, known when it is complete.
std::string arguments_text(const CallScan& call) {
  if (call.arguments.starts_with('{')) return std::string(call.arguments);
  if (!call.arguments_done && call.state != CallScan::State::kComplete) return "";
  const Json value = Json::parse(call.arguments, nullptr, false);
  if (value.is_string()) return value.get<std::string>();
  return call.arguments.empty() || value.is_null() ? "{}" : std::string(call.arguments);
}

// How much of the end of `text` may be the beginning of `marker`.
size_t partial(std::string_view text, std::string_view marker) {
  for (size_t length = std::min(marker.size() - 1, text.size()); length > 0; --length) {
    if (text.ends_with(marker.substr(0, length))) return length;
  }
  return 0;
}

}  // namespace

bool takes_tools(std::string_view chat_template) {
  constexpr std::string_view kName = "tools";
  for (size_t at = chat_template.find(kName); at != std::string_view::npos; at = chat_template.find(kName, at + 1)) {
    const bool begins = at == 0 || !is_word(chat_template[at - 1]);
    const size_t end = at + kName.size();
    if (begins && (end == chat_template.size() || !is_word(chat_template[end]))) return true;
  }
  return false;
}

std::optional<ToolCallForm> tool_call_form(std::string_view chat_template) {
  const auto has = [&](std::string_view text) { return chat_template.find(text) != std::string_view::npos; };
  if (!takes_tools(chat_template)) return ToolCallForm::kJson;
  if (has("<tool_call>")) return ToolCallForm::kHermes;
  if (has("[TOOL_CALLS]")) return ToolCallForm::kMistral;
  if (has("<function=")) return std::nullopt;
  if (has("{\"name\": function name, \"parameters\"")) return ToolCallForm::kLlama3;
  return std::nullopt;
}

std::string_view tool_call_marker(ToolCallForm form) {
  switch (form) {
    case ToolCallForm::kHermes:
      return "<tool_call>";
    case ToolCallForm::kLlama3:
      return "<|python_tag|>";
    case ToolCallForm::kMistral:
      return "[TOOL_CALLS]";
    case ToolCallForm::kJson:
      break;
  }
  return "";
}

std::string_view arguments_key(ToolCallForm form) { return form == ToolCallForm::kLlama3 ? "parameters" : "arguments"; }

ToolCallParser::ToolCallParser(ToolCallForm form, std::vector<std::string> names, bool inside)
    : form_(form), names_(std::move(names)), state_(inside ? State::kCalls : State::kStart), marked_(inside) {}

ReplyPiece ToolCallParser::push(std::string_view text) {
  held_ += text;
  ReplyPiece out;
  while (advance(out)) {
  }
  return out;
}

ReplyPiece ToolCallParser::finish() {
  ReplyPiece out;
  const bool begun = state_ == State::kCalls && held_.find('{') != std::string::npos;
  if (begun && !named_) give_up(out, held_.size());
  if (state_ == State::kStart || state_ == State::kContent) out.content += held_;
  held_.clear();
  return out;
}

// Whether there may be more to do with what is held.
bool ToolCallParser::advance(ReplyPiece& out) {
  switch (state_) {
    case State::kStart: {
      // JSON at the very beginning may be a call without a marker.
      const size_t at = held_.find_first_not_of(kSpace);
      if (at == std::string::npos) return false;
      const bool object = held_[at] == '{' && (form_ == ToolCallForm::kLlama3 || form_ == ToolCallForm::kJson);
      const bool array = held_[at] == '[' && form_ == ToolCallForm::kJson;
      state_ = object || array ? State::kCalls : State::kContent;
      return true;
    }
    case State::kContent:
      return find_call(out);
    case State::kCalls:
      return between_calls(out) && read_call(out);
    case State::kPlain:
      break;
  }
  out.content += std::exchange(held_, "");
  return false;
}

bool ToolCallParser::find_call(ReplyPiece& out) {
  const std::string_view marker = tool_call_marker(form_);
  if (behind_calls_) held_.erase(0, held_.find_first_not_of(kSpace));
  if (held_.empty()) return false;
  behind_calls_ = false;
  const size_t at = marker.empty() ? std::string::npos : held_.find(marker);
  const size_t keep = marker.empty() || at != std::string::npos ? 0 : partial(held_, marker);
  out.content += held_.substr(0, at == std::string::npos ? held_.size() - keep : at);
  held_.erase(0, at == std::string::npos ? held_.size() - keep : at + marker.size());
  if (at == std::string::npos) return false;
  state_ = State::kCalls;
  marked_ = true;
  return true;
}

// Moves to the next object. False when it is not there yet, or there is none.
bool ToolCallParser::between_calls(ReplyPiece& out) {
  const size_t at = held_.find_first_not_of(kBetween);
  if (at == std::string::npos) return false;
  if (held_[at] == '{') return true;
  const std::string_view rest = std::string_view(held_).substr(at);
  if (form_ == ToolCallForm::kHermes && rest.size() < kHermesEnd.size() && kHermesEnd.starts_with(rest)) return false;
  if (!marked_ && calls_ == 0) {
    give_up(out, held_.size());
    return true;
  }
  const std::string_view closing = form_ == ToolCallForm::kHermes ? kHermesEnd : "]";
  const size_t end = rest.starts_with(closing) ? closing.size() : 0;
  held_.erase(0, at + end);
  state_ = State::kContent;
  behind_calls_ = true;
  return true;
}

bool ToolCallParser::read_call(ReplyPiece& out) {
  if (state_ != State::kCalls) return true;
  const size_t begin = held_.find_first_not_of(kBetween);
  const CallScan call = CallScanner(std::string_view(held_).substr(begin)).scan();
  const bool complete = call.state == CallScan::State::kComplete;
  const bool known = call.name && (marked_ || std::ranges::count(names_, *call.name) > 0);
  const bool broken = call.state == CallScan::State::kInvalid;
  if ((broken || complete || call.name) && !known) {
    give_up(out, begin + call.end);
    return true;
  }
  if (known && !named_) {
    out.calls.push_back({calls_++, *call.name, ""});
    named_ = true;
  }
  if (named_) {
    std::string arguments = complete && call.arguments.empty() ? "{}" : arguments_text(call);
    if (arguments.size() > sent_) out.calls.push_back({calls_ - 1, "", arguments.substr(sent_)});
    sent_ = std::max(sent_, arguments.size());
  }
  if (!complete && !broken) return false;
  held_.erase(0, begin + call.end);
  if (broken) state_ = State::kContent;  // a call whose name went out stays one
  named_ = false;
  sent_ = 0;
  return true;
}

// What is held is no call, up to `end`. Behind a marker the reply may still have some.
void ToolCallParser::give_up(ReplyPiece& out, size_t end) {
  if (marked_) out.content += tool_call_marker(form_);
  out.content += held_.substr(0, end);
  held_.erase(0, end);
  state_ = marked_ ? State::kContent : State::kPlain;
}

}  // namespace edgewise
