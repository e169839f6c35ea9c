// Messages to and fro with a session, streamed to standard output, and kept in a file.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "runtime/session.h"

namespace edgewise {

// Streams an answer to standard output. Throws Error when the request can't be run or fails.
Completion stream_answer(Session& session, const Request& request);

// "[7 prompt tokens, first token after 12 ms; 20 tokens, 300 tokens/s; stop]"
std::string speed_text(const Completion& completion);

class Conversation {
 public:
  // Throws Error(kUsage) when the model has no chat template.
  Conversation(Session& session, Request request);

  Request request;  // but for the prompt, which the messages make

  // Streams the answer and keeps both messages; neither when it throws or is stopped before its first letter.
  Completion ask(const std::string& text);
  // Takes back the last question and its answer and returns the question; empty when there is none.
  std::string undo();
  // Forgets all but the system message.
  void clear();
  // An empty one is left out.
  void set_system(const std::string& text);

  // Messages, and the cache behind them: Session::save(), Session::load().
  void save(const std::filesystem::path& file) const;
  void load(const std::filesystem::path& file);

  size_t messages() const { return messages_.size(); }
  // The prompt that the messages so far make.
  std::vector<int32_t> tokens() const;

 private:
  bool has_system() const { return !messages_.empty() && messages_[0].at("role") == "system"; }

  Session& session_;
  OrderedJson messages_ = OrderedJson::array();
};

}  // namespace edgewise
