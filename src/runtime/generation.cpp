#include "runtime/generation.h"

#include <fmt/format.h>

#include <cmath>
#include <exception>
#include <new>
#include <utility>

#include "base/seconds.h"

namespace edgewise {
namespace {

std::vector<float> normalized(std::vector<float> values) {
  double squares = 0;
  for (const float value : values) squares += double{value} * double{value};
  const double inverse = squares > 0 ? 1 / std::sqrt(squares) : 0;
  for (float& value : values) value = static_cast<float>(value * inverse);
  return values;
}

}  // namespace

Generation::Generation(const Request& request, int max_tokens, LogitTokens logits, const Tokenizer& tokenizer,
                       ProgressCallback callback)
    : with_logprobs_(request.sampling.num_logprobs > 0),
      sequence_(request.prompt, request.sampling, max_tokens, logits),
      text_(tokenizer, request.stop, request.shown_tokens),
      callback_(std::move(callback)),
      submitted_(std::chrono::steady_clock::now()) {
  sequence_.embed = request.embed;
  sequence_.ignore_end = request.ignore_eos;
  sequence_.priority = request.priority;
  sequence_.speculate = !request.disable_spec_decode &&
                        !with_logprobs_;  // a sampler reports the log probabilities of its last token only
  sequence_.pin_tokens = request.pin_tokens;
  if (request.grammar) sequence_.constraint = std::make_unique<TokenConstraint>(request.grammar);
  completion_.prompt_tokens = sequence_.prompt_length;
}

void Generation::note(int32_t token) {
  completion_.tokens.push_back(token);
  completion_.token_seconds.push_back(seconds_between(sequence_.admitted, sequence_.last_token));
  if (!with_logprobs_) return;
  const auto alternatives = sequence_.sampler.last_alternatives();
  completion_.logprobs.push_back({token, sequence_.sampler.last_logprob(), {alternatives.begin(), alternatives.end()}});
}

// Of the exception that is being handled.
void Generation::note_error() noexcept {
  sequence_.finish = FinishReason::kError;
  try {
    throw;
  } catch (const std::bad_alloc&) {
    completion_.error = "out of memory";  // short enough to need none
  } catch (const std::exception& error) {
    try {
      completion_.error = error.what();
    } catch (const std::bad_alloc&) {
      completion_.error = "out of memory";
    }
  } catch (...) {
    completion_.error = "unknown";
  }
}

FinishReason Generation::take_tokens() {
  FinishReason leave = FinishReason::kNone;
  while (static_cast<int>(completion_.tokens.size()) < sequence_.generated() && leave == FinishReason::kNone) {
    const int32_t token = sequence_.tokens[static_cast<size_t>(sequence_.prompt_length) + completion_.tokens.size()];
    note(token);
    const std::string text = text_.push(token);
    if (text_.stopped()) leave = FinishReason::kStop;
    if (!text.empty() && callback_ && !callback_(completion_, text)) leave = FinishReason::kCancelled;
  }
  return leave;
}

FinishReason Generation::collect(StepOutcome outcome, std::string_view fault) noexcept {
  FinishReason leave = FinishReason::kNone;
  try {
    if (sequence_.finish != FinishReason::kError) leave = take_tokens();
  } catch (...) {
    const bool finished = sequence_.finished();
    note_error();
    if (!finished) leave = std::exchange(sequence_.finish, FinishReason::kNone);
  }
  if (!sequence_.finished()) return leave;
  if (completion_.finish == FinishReason::kNone) finish(outcome, fault);
  return FinishReason::kNone;
}

void Generation::fail() noexcept {
  note_error();
  finish(StepOutcome::kDone, {});
}

void Generation::finish(StepOutcome outcome, std::string_view fault) noexcept {
  completion_.cached_tokens = sequence_.cached_tokens;
  completion_.preemptions = sequence_.preemptions;
  completion_.drafted_tokens = sequence_.drafted;
  completion_.accepted_tokens = sequence_.accepted;
  completion_.verifications = sequence_.verifications;
  completion_.gave_up_drafting = sequence_.gave_up && sequence_.verifications > 0;
  if (sequence_.generated() > 0) {
    completion_.queue_seconds = seconds_between(submitted_, sequence_.admitted);
    completion_.prefill_seconds = seconds_between(sequence_.admitted, sequence_.first_token);
    completion_.decode_seconds = seconds_between(sequence_.first_token, sequence_.last_token);
  }
  std::string rest;
  try {
    if (sequence_.finish == FinishReason::kError && completion_.error.empty()) {
      const bool off_grammar = outcome == StepOutcome::kDone && sequence_.constraint;
      completion_.error = off_grammar
                              ? "the answer's format: " + sequence_.constraint->state.error()
                              : fmt::format("the step failed: {}", fault.empty() ? outcome_name(outcome) : fault);
    }
    if (sequence_.finish == FinishReason::kStop) completion_.embedding = normalized(sequence_.embedding);
    rest = text_.finish();
    completion_.text = text_.text();
  } catch (...) {
    note_error();
  }
  completion_.finish = sequence_.finish;
  try {
    if (callback_) callback_(completion_, rest);
  } catch (...) {  // it is over already
  }
}

}  // namespace edgewise
