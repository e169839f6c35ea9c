// A request and its answer.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "runtime/adapters.h"
#include "runtime/output_text.h"
#include "runtime/sequence.h"

namespace edgewise {

struct Request {
  std::vector<int32_t> prompt;
  SamplingOptions sampling;
  int max_tokens = 256;  // cut to what the cache has room for
  std::vector<std::string> stop;
  std::vector<int32_t> shown_tokens;               // special ones that are part of the text all the same
  bool ignore_eos = false;                         // an end token does not end the answer
  bool embed = false;                              // an embedding of the prompt instead of an answer
  std::string adapter;                             // one that the session has; empty: none
  int priority = 0;                                // higher ones go first
  std::shared_ptr<const CompiledGrammar> grammar;  // what the answer must be; none: any text
  int pin_tokens = 0;                              // keep so many tokens of the prompt in the cache for good
  bool disable_spec_decode = false;                // no guessing ahead
};

struct CompletionToken {
  int32_t token;
  float logprob;
  std::vector<TokenLogprob> alternatives;
};

struct Completion {
  std::string text;
  std::vector<float> embedding;  // [hidden], of length 1: the final hidden state of the prompt's last token
  std::vector<int32_t> tokens;   // an end token included
  std::vector<CompletionToken> logprobs;
  FinishReason finish = FinishReason::kNone;
  std::string error;  // set when finish is kError; the other requests are not affected
  int prompt_tokens = 0;
  int cached_tokens = 0;  // of the prompt, found in the prefix cache
  int preemptions = 0;
  int drafted_tokens = 0;             // tried ahead of the model
  int accepted_tokens = 0;            // of those, what the model said too
  int verifications = 0;              // steps that tried some
  bool gave_up_drafting = false;      // it did not pay
  std::vector<double> token_seconds;  // when each token was there, since admission
  double queue_seconds = 0;           // from submission to admission
  double prefill_seconds = 0;         // from admission to the first token
  double decode_seconds = 0;          // from the first token to the last
};

// Receives an answer piece by piece: everything up to now, and the text that is new. `finish` is kNone until the last
// call, whose text may be empty. False cancels the request; an exception ends it with an error.
using ProgressCallback = std::function<bool(const Completion& so_far, std::string_view text)>;

// One request under way: its sequence in the scheduler, and the text made of it.
class Generation {
 public:
  Generation(const Request& request, int max_tokens, LogitTokens logits, const Tokenizer& tokenizer,
             ProgressCallback callback);

  Sequence& sequence() { return sequence_; }
  void hold_adapter(AdapterUse use) {
    sequence_.adapter = use.adapter->id;
    adapter_ = std::move(use);
  }
  const std::optional<AdapterUse>& adapter() const { return adapter_; }
  // Whether it can begin without waiting for an adapter's files.
  bool ready() const { return !adapter_ || adapter_->ready(); }
  // What came of the last step goes to the callback. Returns why the sequence must leave, kNone when it need not.
  // Whatever fails on the way, memory included, is this request's error. `fault`: why no step will run any more.
  FinishReason collect(StepOutcome outcome = StepOutcome::kDone, std::string_view fault = {}) noexcept;
  // Ends a request that could not even begin; to be called in a handler of the exception.
  void fail() noexcept;
  bool done() const { return sequence_.finished(); }
  // The answer so far; after done() all of it.
  const Completion& completion() const { return completion_; }

 private:
  void note(int32_t token);
  FinishReason take_tokens();
  void note_error() noexcept;
  void finish(StepOutcome outcome, std::string_view fault) noexcept;

  bool with_logprobs_;
  std::optional<AdapterUse> adapter_;
  Sequence sequence_;
  OutputText text_;
  ProgressCallback callback_;
  Completion completion_;
  std::chrono::steady_clock::time_point submitted_;
};

}  // namespace edgewise
