// From logits to a token.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "backends/draw.h"

namespace edgewise {

struct SamplingOptions {
  double temperature = 0;  // 0: greedy, the exact argmax
  double top_p = 1;        // these three as in DrawRule
  int top_k = 0;
  double min_p = 0;
  double repetition_penalty = 1;      // of tokens in prompt and answer (arXiv:1909.05858)
  double presence_penalty = 0;        // of tokens in the answer, once
  double frequency_penalty = 0;       // of tokens in the answer, each time
  std::optional<uint64_t> seed = {};  // absent: a fresh one
  std::map<int32_t, float> logit_bias = {};
  int num_logprobs = 0;  // alternatives to report with each token

  // Throws Error(kUsage) naming the option, its value and its range.
  void check(int64_t vocabulary) const;
};

// Which token each logit is of: all of a vocabulary, or the ascending ids of a reduced one, which outlive this.
class LogitTokens {
 public:
  LogitTokens(int64_t vocabulary) : count_(static_cast<size_t>(vocabulary)) {}  // NOLINT: implicit, the usual case
  LogitTokens(int64_t vocabulary, std::span<const int32_t> kept)
      : count_(kept.empty() ? static_cast<size_t>(vocabulary) : kept.size()), kept_(kept) {}

  size_t count() const { return count_; }
  bool reduced() const { return !kept_.empty(); }
  int32_t token(int32_t index) const { return kept_.empty() ? index : kept_[static_cast<size_t>(index)]; }
  // -1 for a token that has no logit.
  int32_t index(int32_t token) const;

 private:
  size_t count_;
  std::span<const int32_t> kept_;
};

// Numbers from [0, 1): splitmix64 for the state, xoroshiro128+ from there, the 53 high bits (https://prng.di.unimi.it).
class Uniforms {
 public:
  explicit Uniforms(uint64_t seed);
  double next() noexcept;

 private:
  uint64_t a_, b_;
};

// One sequence's sampling state. sample() allocates nothing.
class Sampler {
 public:
  Sampler(const SamplingOptions& options, LogitTokens tokens, std::span<const int32_t> prompt);

  // Chooses a token from `logits` [tokens.count()], which it overwrites, and takes the choice into account from then
  // on. `allowed` has a bit for each token of the whole vocabulary, one with a logit among them; empty: any token.
  int32_t sample(std::span<float> logits, std::span<const uint64_t> allowed = {}) noexcept;
  // What sample() may leave to an executable: an entry of `chosen` in Executable::run(), with its draw where it is
  // kDraw. `ahead`: how many tokens will have been chosen before; `allowed`, as for sample(), is not read.
  int32_t ask(int ahead, std::span<const uint64_t> allowed, RowDraw& draw) const noexcept;
  // What sample() would do, had it chosen `index`.
  int32_t take(int32_t index) noexcept;
  // Log probability of the last token under the model (before penalties, temperature and truncation), and the
  // num_logprobs most probable tokens. Filled when num_logprobs > 0.
  float last_logprob() const { return last_logprob_; }
  std::span<const TokenLogprob> last_alternatives() const { return alternatives_; }

 private:
  bool changes_logits() const noexcept;
  void note_prompt(std::span<const int32_t> prompt);
  LogitChange& change_of(int32_t index) noexcept;
  void note_logprobs(std::span<const float> logits) noexcept;
  DrawRule rule() const noexcept { return {options_.temperature, options_.top_p, options_.top_k, options_.min_p}; }
  double uniform(int ahead) const noexcept;

  SamplingOptions options_;
  LogitTokens tokens_;
  Uniforms uniforms_;
  std::vector<LogitChange> changes_;  // by index; of tokens with a bias, and of those seen where that matters
  Draw draw_;
  std::vector<TokenLogprob> alternatives_;
  std::vector<float> plain_;  // the model's logits, when log probabilities are reported
  float log_sum_ = 0;
  float last_logprob_ = 0;
};

}  // namespace edgewise
