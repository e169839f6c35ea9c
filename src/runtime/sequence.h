// One sequence from its prompt to its last token.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "grammar/constraint.h"
#include "runtime/drafter.h"
#include "runtime/sampler.h"
#include "runtime/speculation.h"

namespace edgewise {

enum class FinishReason { kNone, kStop, kLength, kCancelled, kError };
std::string_view finish_reason_name(FinishReason reason);

// What a sequence's answer must be, how far it is, and which tokens may come next.
struct TokenConstraint {
  explicit TokenConstraint(std::shared_ptr<const CompiledGrammar> grammar)
      : mask(grammar->mask_words()), state(std::move(grammar)) {}
  // False when no token may come next.
  bool fill_mask() noexcept { return usable = state.fill_mask(mask); }
  // Whether the answer ends with the token: it is an end token, or nothing can follow it.
  FinishReason accept(int32_t token) noexcept;

  std::vector<uint64_t> mask;  // of the next token, a bit each
  bool usable = false;
  ConstraintState state;
};

// Owned by whoever submits it, who may read it between steps.
struct Sequence {
  Sequence(std::vector<int32_t> prompt, const SamplingOptions& sampling, int max_tokens, LogitTokens logits);

  std::vector<int32_t> tokens;  // prompt, then answer
  int prompt_length;
  int max_tokens;           // of the answer
  bool ignore_end = false;  // end tokens do not end it
  bool embed = false;       // no answer: the hidden state of the last token of the prompt goes to `embedding`
  int priority = 0;         // higher ones go first and may push lower ones out for a while
  int32_t adapter = -1;
  bool speculate = true;                        // take drafts where the scheduler makes some
  int pin_tokens = 0;                           // so many tokens of the prompt stay in the cache for good
  std::unique_ptr<TokenConstraint> constraint;  // none: any text
  Sampler sampler;
  FinishReason finish = FinishReason::kNone;

  // The scheduler's.
  std::vector<float> embedding{};  // [hidden]
  uint64_t arrival = 0;            // in the order of submission
  int kv_length = 0;               // tokens in the cache
  int published = 0;               // full pages that others may use
  int cached_tokens = 0;           // of the prompt, found in the cache when the sequence was first admitted
  int preemptions = 0;
  DraftTree draft;  // what the next step tries behind the last token
  Acceptance acceptance;
  bool gave_up = false;   // guessing ahead did not pay
  int verifications = 0;  // steps that tried a draft
  int drafted = 0;        // tokens tried
  int accepted = 0;       // and found right
  std::vector<int32_t> pages;
  std::chrono::steady_clock::time_point admitted;
  std::chrono::steady_clock::time_point first_token;
  std::chrono::steady_clock::time_point last_token;

  int length() const { return static_cast<int>(tokens.size()); }
  int generated() const { return length() - prompt_length; }
  bool decoding() const { return kv_length == length() - 1; }  // one row, then a new token
  // Whether its guesses seem to cost more than they give, `cost` being that of a step in plain ones.
  bool doubts(double cost) const { return acceptance.tokens() < cost; }
  bool speculates() const { return speculate && !gave_up; }
  bool finished() const { return finish != FinishReason::kNone; }
};

}  // namespace edgewise
