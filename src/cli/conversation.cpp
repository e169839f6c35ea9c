#include "cli/conversation.h"

#include <iostream>

#include "base/error.h"
#include "base/progress.h"
#include "cli/draft_flags.h"

namespace edgewise {

Completion stream_answer(Session& session, const Request& request) {
  Completion completion = session.generate(request, [](const Completion&, std::string_view text) {
    std::cout << text << std::flush;
    return !interrupted();
  });
  if (completion.finish == FinishReason::kError) usage_error("{}", completion.error);
  std::cout << std::endl;
  return completion;
}

std::string speed_text(const Completion& c) {
  const double decoded = static_cast<double>(c.tokens.size()) - 1;
  const std::string cached = c.cached_tokens > 0 ? fmt::format(", {} of them cached", c.cached_tokens) : "";
  std::string text = fmt::format("[{} prompt tokens{}, first token after {:.0f} ms; {} tokens, {:.0f} tokens/s; {}]",
                                 c.prompt_tokens, cached, c.prefill_seconds * 1e3, c.tokens.size(),
                                 c.decode_seconds > 0 ? decoded / c.decode_seconds : 0.0, finish_reason_name(c.finish));
  if (c.drafted_tokens > 0) {
    text += fmt::format("\n[{} of {} tokens tried ahead were right: {:.2f} tokens a verification]", c.accepted_tokens,
                        c.drafted_tokens, 1 + static_cast<double>(c.accepted_tokens) / c.verifications);
  }
  if (c.gave_up_drafting) text += fmt::format("\n{}", kGaveUpWarning);
  return text;
}

Conversation::Conversation(Session& session, Request request) : request(std::move(request)), session_(session) {
  if (!session.has_chat_template()) usage_error("this model has no chat template; give a prompt and --raw");
}

Completion Conversation::ask(const std::string& text) {
  const OrderedJson before = messages_;
  messages_.push_back({{"role", "user"}, {"content", text}});
  try {
    request.prompt = session_.encode_chat(messages_);
    Completion completion = stream_answer(session_, request);
    if (completion.text.empty() && completion.finish == FinishReason::kCancelled) {
      messages_ = before;
    } else {
      messages_.push_back({{"role", "assistant"}, {"content", completion.text}});
    }
    return completion;
  } catch (...) {
    messages_ = before;
    throw;
  }
}

std::string Conversation::undo() {
  std::string question;
  while (messages_.size() > (has_system() ? 1 : 0) && question.empty()) {
    const OrderedJson& last = messages_.back();
    if (last.at("role") == "user") question = last.at("content").get<std::string>();
    messages_.erase(messages_.size() - 1);
  }
  return question;
}

void Conversation::clear() {
  while (messages_.size() > (has_system() ? 1 : 0)) messages_.erase(messages_.size() - 1);
}

void Conversation::set_system(const std::string& text) {
  if (has_system()) messages_.erase(0);
  if (!text.empty()) messages_.insert(messages_.begin(), OrderedJson{{"role", "system"}, {"content", text}});
}

std::vector<int32_t> Conversation::tokens() const {
  if (messages_.size() == (has_system() ? 1 : 0)) return {};  // some templates refuse one without a question
  return session_.encode_chat(messages_);
}

void Conversation::save(const std::filesystem::path& file) const {
  session_.save(file, tokens(), messages_, request.adapter);
}

void Conversation::load(const std::filesystem::path& file) { messages_ = session_.load(file, request.adapter); }

}  // namespace edgewise
