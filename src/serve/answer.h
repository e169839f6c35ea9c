// One API call's answers on their way to the client.
#pragma once

#include <memory>
#include <vector>

#include "serve/http.h"
#include "serve/metrics.h"
#include "serve/openai_reply.h"

namespace edgewise {

// Collects the choices and writes them, as a stream or as a whole, when they come. Lives until the last callback of the
// service, whose thread calls it.
class Answer {
 public:
  Answer(ApiCall call, ReplyHead head, std::shared_ptr<HttpReply> reply, const Tokenizer& tokenizer, Metrics& metrics);

  const ApiCall& call() const { return call_; }
  // A ProgressCallback for each choice.
  bool progress(size_t choice, const Completion& so_far, std::string_view text);

 private:
  struct Choice {
    Completion completion;  // when it has ended
    ReplyText text;
    std::optional<ToolCallParser> parser;  // when there are tools
    bool started = false;
    size_t sent_tokens = 0;  // whose log probabilities went out
  };

  ReplyPiece take_apart(Choice& choice, std::string_view text, bool ended) const;
  static void keep(ReplyText& text, const ReplyPiece& piece);
  void stream(size_t index, const Completion& so_far, const ReplyPiece& piece, bool ended);
  void finish();

  const ApiCall call_;
  const ReplyHead head_;
  const std::shared_ptr<HttpReply> reply_;
  const Tokenizer& tokenizer_;
  Metrics& metrics_;
  std::vector<Choice> choices_;
  size_t left_;
  bool stream_open_ = false;
};

}  // namespace edgewise
