#include "runtime/scheduler.h"

#include <algorithm>

#include "base/error.h"

namespace edgewise {

std::string_view finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "running";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kError:
      return "error";
  }
  return "unknown";
}

Sequence::Sequence(std::vector<int32_t> prompt, const SamplingOptions& sampling, int max_new_tokens, int64_t vocabulary)
    : tokens(std::move(prompt)),
      prompt_length(static_cast<int>(tokens.size())),
      max_tokens(max_new_tokens),
      sampler(sampling, vocabulary, tokens) {
  const size_t longest = tokens.size() + static_cast<size_t>(max_tokens);
  tokens.reserve(longest);
  pages.reserve(longest / kPageTokens + 1);
}

Scheduler::Scheduler(Executable& executable, const SchedulerLimits& limits, std::vector<int32_t> end_tokens)
    : executable_(executable), limits_(limits), end_tokens_(std::move(end_tokens)), pages_(limits.kv_pages) {
  const auto sequences = static_cast<size_t>(limits.max_sequences);
  const auto step_tokens = static_cast<size_t>(limits.max_step_tokens);
  running_.reserve(sequences);
  advanced_.reserve(sequences);
  tokens_.reserve(step_tokens);
  positions_.reserve(step_tokens);
  slices_.reserve(sequences);
  sliced_.reserve(sequences);
  rows_.reserve(sequences);
  row_owners_.reserve(sequences);
  logits_.resize(sequences * static_cast<size_t>(limits.vocabulary));
}

void Scheduler::submit(Sequence& sequence) {
  check_internal(!sequence.tokens.empty(), "a sequence needs a prompt");
  check_internal(sequence.prompt_length + sequence.max_tokens <= limits_.kv_capacity, "a sequence must fit the cache");
  waiting_.push_back(&sequence);
}

void Scheduler::cancel(Sequence& sequence) {
  if (sequence.finished()) return;
  sequence.finish = FinishReason::kCancelled;
  std::erase(waiting_, &sequence);
  retire();
}

StepOutcome Scheduler::step() noexcept {
  advanced_.clear();
  admit();
  plan();
  if (tokens_.empty()) return StepOutcome::kDone;
  const StepOutcome outcome = executable_.run({tokens_, positions_, {}, slices_, rows_}, logits_);
  if (outcome == StepOutcome::kDone) {
    commit();
  } else {
    // Nothing of a failed step is kept; its sequences end with an error and give back their pages.
    for (Sequence* sequence : sliced_) sequence->finish = FinishReason::kError;
  }
  retire();
  return outcome;
}

void Scheduler::admit() noexcept {
  while (!waiting_.empty() && static_cast<int>(running_.size()) < limits_.max_sequences) {
    Sequence& sequence = *waiting_.front();
    const int length =
        limits_.reserve_whole ? sequence.prompt_length + sequence.max_tokens : sequence.prompt_length + 1;
    if (!pages_.reserve(sequence.pages, length)) return;  // until another one leaves
    sequence.admitted = std::chrono::steady_clock::now();
    running_.push_back(&sequence);
    waiting_.pop_front();
  }
}

void Scheduler::plan() noexcept {
  tokens_.clear();
  positions_.clear();
  slices_.clear();
  sliced_.clear();
  rows_.clear();
  row_owners_.clear();
  // Decoding sequences first: one row each, so a long prompt delays nobody by more than its chunk.
  for (Sequence* sequence : running_) {
    if (sequence->generated() > 0) add_rows(*sequence, 1);
  }
  for (Sequence* sequence : running_) {
    const int left = limits_.max_step_tokens - static_cast<int>(tokens_.size());
    if (sequence->generated() == 0 && left > 0)
      add_rows(*sequence, std::min(left, sequence->prompt_length - sequence->kv_length));
  }
}

void Scheduler::add_rows(Sequence& sequence, int count) noexcept {
  if (!pages_.reserve(sequence.pages, sequence.kv_length + count)) return;  // waits for a later step
  const auto first = static_cast<int32_t>(tokens_.size());
  for (int i = 0; i < count; ++i) {
    tokens_.push_back(sequence.tokens[static_cast<size_t>(sequence.kv_length + i)]);
    positions_.push_back(sequence.kv_length + i);
  }
  slices_.push_back(
      {first, count, sequence.kv_length, static_cast<int32_t>(sequence.tokens.size()), sequence.pages, -1});
  sliced_.push_back(&sequence);
  if (sequence.kv_length + count == static_cast<int>(sequence.tokens.size())) {
    rows_.push_back(first + count - 1);
    row_owners_.push_back(&sequence);
  }
}

void Scheduler::commit() noexcept {
  for (size_t i = 0; i < slices_.size(); ++i) sliced_[i]->kv_length += slices_[i].token_count;
  const auto vocabulary = static_cast<size_t>(limits_.vocabulary);
  for (size_t row = 0; row < rows_.size(); ++row) {
    Sequence& sequence = *row_owners_[row];
    accept(sequence, sequence.sampler.sample(std::span(logits_).subspan(row * vocabulary, vocabulary)));
  }
}

void Scheduler::accept(Sequence& sequence, int32_t token) noexcept {
  sequence.last_token = std::chrono::steady_clock::now();
  if (sequence.generated() == 0) sequence.first_token = sequence.last_token;
  sequence.tokens.push_back(token);
  advanced_.push_back(&sequence);
  if (!sequence.ignore_end && std::find(end_tokens_.begin(), end_tokens_.end(), token) != end_tokens_.end()) {
    sequence.finish = FinishReason::kStop;
  } else if (sequence.generated() >= sequence.max_tokens) {
    sequence.finish = FinishReason::kLength;
  }
}

void Scheduler::retire() noexcept {
  std::erase_if(running_, [&](Sequence* sequence) {
    if (sequence->finished()) pages_.release(sequence->pages);
    return sequence->finished();
  });
}

}  // namespace edgewise
