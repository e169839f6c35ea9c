#include "serve/answer.h"

#include <algorithm>
#include <random>

namespace edgewise {
namespace {

constexpr std::string_view kJson = "application/json";

// Nine letters and digits: what Mistral's templates insist on, and others don't mind.
std::string fresh_call_id() {
  constexpr std::string_view kAlphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
  thread_local std::mt19937_64 random{std::random_device{}()};
  std::string id;
  for (int i = 0; i < 9; ++i) id += kAlphabet[random() % kAlphabet.size()];
  return id;
}

}  // namespace

Answer::Answer(ApiCall call, ReplyHead head, std::shared_ptr<HttpReply> reply, const Tokenizer& tokenizer,
               Metrics& metrics)
    : call_(std::move(call)),
      head_(std::move(head)),
      reply_(std::move(reply)),
      tokenizer_(tokenizer),
      metrics_(metrics),
      choices_(call_.requests.size()),
      left_(call_.requests.size()) {
  for (Choice& choice : choices_) {
    if (call_.tools) choice.parser = call_.tools->parser();
  }
}

bool Answer::progress(size_t index, const Completion& so_far, std::string_view text) {
  Choice& choice = choices_[index];
  const bool ended = so_far.finish != FinishReason::kNone;
  const ReplyPiece piece = take_apart(choice, text, ended);
  keep(choice.text, piece);
  if (call_.stream && so_far.finish != FinishReason::kError) stream(index, so_far, piece, ended);
  if (!ended) return true;
  metrics_.note(so_far);
  choice.completion = so_far;
  if (--left_ == 0) finish();
  return true;
}

ReplyPiece Answer::take_apart(Choice& choice, std::string_view text, bool ended) const {
  if (!choice.parser) return {std::string(text), {}};
  ReplyPiece piece = choice.parser->push(text);
  if (ended) piece.content += choice.parser->finish().content;
  if (call_.tools->one_call_only) std::erase_if(piece.calls, [](const ToolCallPiece& call) { return call.index > 0; });
  return piece;
}

void Answer::keep(ReplyText& text, const ReplyPiece& piece) {
  text.content += piece.content;
  for (const ToolCallPiece& call : piece.calls) {
    if (call.name.empty()) {
      text.calls.back().arguments += call.arguments;
    } else {
      text.calls.push_back({fresh_call_id(), call.name, ""});
    }
  }
}

void Answer::stream(size_t index, const Completion& so_far, const ReplyPiece& piece, bool ended) {
  Choice& choice = choices_[index];
  std::string events;
  if (!std::exchange(stream_open_, true)) reply_->begin("text/event-stream");
  if (!std::exchange(choice.started, true)) events += first_event(call_, head_, index);
  const bool new_logprobs = call_.logprobs && so_far.logprobs.size() > choice.sent_tokens;
  if (!piece.content.empty() || (ended && new_logprobs)) {
    events += text_event(call_, head_, index, so_far, choice.sent_tokens, piece.content, tokenizer_);
    choice.sent_tokens = so_far.tokens.size();
  }
  for (const ToolCallPiece& call : piece.calls) {
    const std::string& id = choice.text.calls[static_cast<size_t>(call.index)].id;
    events += tool_event(call_, head_, index, static_cast<size_t>(call.index), {id, call.name, call.arguments},
                         !call.name.empty());
  }
  if (ended) events += last_event(call_, head_, index, so_far, choice.text);
  if (!events.empty()) reply_->write(std::move(events));
}

void Answer::finish() {
  std::vector<Completion> completions;
  std::vector<ReplyText> texts;
  for (Choice& choice : choices_) {
    if (choice.completion.finish == FinishReason::kError) {
      const std::string& why = choice.completion.error;
      if (!stream_open_) return reply_->send(500, kJson, error_body(why, "server_error"));
      reply_->write(error_event(choice.completion));
      return reply_->end();
    }
    completions.push_back(std::move(choice.completion));
    texts.push_back(std::move(choice.text));
  }
  if (!call_.stream) return reply_->send(200, kJson, reply_body(call_, head_, completions, texts, tokenizer_));
  std::string events = call_.include_usage ? usage_event(call_, head_, completions) : "";
  events += kDoneEvent;
  reply_->write(std::move(events));
  reply_->end();
}

}  // namespace edgewise
