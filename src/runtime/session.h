// An engine ready to answer: the loaded executable, its tokenizer and its chat template.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine_file.h"
#include "formats/json.h"
#include "runtime/scheduler.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace edgewise {

struct SessionOptions {
  int threads = 0;            // 0: as many as the process may use
  int max_step_tokens = 256;  // prefill chunk
  bool all_logits = false;    // room for the logits of every token of a step, not of each sequence's last one
  bool profile = false;       // time every operator
};

struct Request {
  std::vector<int32_t> prompt;
  SamplingOptions sampling;
  int max_tokens = 256;  // cut to what the cache has room for
  std::vector<std::string> stop;
  bool ignore_eos = false;  // an end token does not end the answer
};

struct CompletionToken {
  int32_t token;
  float logprob;
  std::vector<TokenLogprob> alternatives;
};

struct Completion {
  std::string text;
  std::vector<int32_t> tokens;  // an end token included
  std::vector<CompletionToken> logprobs;
  FinishReason finish = FinishReason::kNone;
  std::string error;  // set when finish is kError; the other requests are not affected
  int prompt_tokens = 0;
  std::vector<double> token_seconds;  // when each token was there, since admission
  double prefill_seconds = 0;         // from admission to the first token
  double decode_seconds = 0;          // from the first token to the last
};

// Receives an answer's text piece by piece; false cancels that request.
using TextCallback = std::function<bool(size_t request, std::string_view text)>;

class Session {
 public:
  // Throws Error naming what is missing or does not fit.
  explicit Session(const std::filesystem::path& engine_dir, const SessionOptions& options = {});

  const EngineInfo& info() const { return engine_->info; }
  const Graph& graph() const { return engine_->graph; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  Executable& executable() { return *executable_; }
  int64_t vocabulary() const { return vocabulary_; }
  int max_step_tokens() const { return limits_.max_step_tokens; }
  // What generation_config.json recommends; greedy when it says nothing.
  const SamplingOptions& recommended_sampling() const { return recommended_; }
  bool has_chat_template() const { return chat_template_.has_value(); }

  // Ids of a conversation (an array of {"role", "content"}) with the prompt for an answer behind it.
  // Throws Error(kUsage) when the model has no chat template or the template refuses.
  std::vector<int32_t> encode_chat(const OrderedJson& messages) const;
  // Ids of a text as it is, with the special tokens the tokenizer puts around it.
  std::vector<int32_t> encode_text(std::string_view text) const;

  // Answers all requests side by side. A bad one gets an error, the others their answers.
  std::vector<Completion> generate(const std::vector<Request>& requests, const TextCallback& callback = {});
  Completion generate(const Request& request, const std::function<bool(std::string_view)>& callback = {});

 private:
  struct Running;
  void check(const Request& request) const;
  void read_generation_config(const std::filesystem::path& engine_dir);
  std::vector<Running> submit(const std::vector<Request>& requests, std::vector<Completion>& completions);

  std::unique_ptr<Engine> engine_;
  Tokenizer tokenizer_;
  std::optional<LoadedChatTemplate> chat_template_;
  std::unique_ptr<Executable> executable_;
  std::unique_ptr<Scheduler> scheduler_;
  SchedulerLimits limits_;
  int64_t vocabulary_ = 0;
  SamplingOptions recommended_;
  std::vector<int32_t> end_tokens_;
};

}  // namespace edgewise
