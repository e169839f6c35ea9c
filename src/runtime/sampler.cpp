#include "runtime/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>

#include "backends/best_rows.h"
#include "base/error.h"

namespace edgewise {
namespace {

// Most words of a mask are all ones or all zeros.
void forbid_others(std::span<float> logits, std::span<const uint64_t> allowed, const LogitTokens& tokens) noexcept {
  if (!allowed.empty() && tokens.reduced()) {
    for (size_t i = 0; i < logits.size(); ++i) {
      const auto token = static_cast<size_t>(tokens.token(static_cast<int32_t>(i)));
      if ((allowed[token >> 6] >> (token & 63) & 1) == 0) logits[i] = -INFINITY;
    }
    return;
  }
  for (size_t word = 0; word < allowed.size(); ++word) {
    if (allowed[word] == ~uint64_t{0}) continue;
    const size_t end = std::min(logits.size(), (word + 1) * 64);
    for (size_t i = word * 64; i < end; ++i) {
      if ((allowed[word] >> (i & 63) & 1) == 0) logits[i] = -INFINITY;
    }
  }
}

uint64_t split_mix(uint64_t& state) {
  uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace

void SamplingOptions::check(int64_t vocabulary) const {
  const auto require = [](bool holds, const char* name, double value, const char* range) {
    if (!holds) usage_error("{} = {}: expected {}", name, value, range);
  };
  require(temperature >= 0 && temperature <= 100, "temperature", temperature, "0 (greedy) to 100");
  require(top_p > 0 && top_p <= 1, "top_p", top_p, "above 0, at most 1");
  require(top_k >= 0, "top_k", top_k, "0 (all) or more");
  require(min_p >= 0 && min_p < 1, "min_p", min_p, "0 or more, below 1");
  require(repetition_penalty > 0 && repetition_penalty <= 100, "repetition_penalty", repetition_penalty,
          "above 0, at most 100");
  require(std::fabs(presence_penalty) <= 2, "presence_penalty", presence_penalty, "-2 to 2");
  require(std::fabs(frequency_penalty) <= 2, "frequency_penalty", frequency_penalty, "-2 to 2");
  require(num_logprobs >= 0 && num_logprobs <= 20, "num_logprobs", num_logprobs, "0 to 20");
  for (const auto& [token, bias] : logit_bias) {
    if (token < 0 || token >= vocabulary) {
      usage_error("logit_bias: token {} is outside the vocabulary of {}", token, vocabulary);
    }
    require(std::fabs(bias) <= 100, "logit_bias", double{bias}, "-100 to 100");
  }
}

int32_t LogitTokens::index(int32_t token) const {
  if (kept_.empty()) return token >= 0 && static_cast<size_t>(token) < count_ ? token : -1;
  const auto found = std::ranges::lower_bound(kept_, token);
  return found != kept_.end() && *found == token ? static_cast<int32_t>(found - kept_.begin()) : -1;
}

Sampler::Sampler(const SamplingOptions& options, LogitTokens tokens, std::span<const int32_t> prompt)
    : options_(options),
      tokens_(tokens),
      draw_(options.temperature > 0 || options.num_logprobs > 0 ? tokens.count() : 0) {
  const size_t size = tokens.count();
  generated_.assign(size, 0);
  seen_.assign((size + 63) / 64, 0);
  for (const int32_t token : prompt) {
    if (const int32_t index = tokens.index(token); index >= 0) note_seen(index);
  }
  for (const auto& [token, bias] : options.logit_bias) {
    if (const int32_t index = tokens.index(token); index >= 0) biases_.emplace_back(index, bias);
  }
  if (options.num_logprobs > 0) plain_.resize(size);
  alternatives_.reserve(static_cast<size_t>(options.num_logprobs) + 1);
  uint64_t state = options.seed ? *options.seed : (uint64_t{std::random_device{}()} << 32) ^ std::random_device{}();
  random_[0] = split_mix(state);
  random_[1] = split_mix(state);
}

// xoroshiro128+, the 53 high bits: https://prng.di.unimi.it
double Sampler::next_uniform() noexcept {
  const uint64_t a = random_[0];
  uint64_t b = random_[1];
  const uint64_t result = a + b;
  b ^= a;
  random_[0] = ((a << 24) | (a >> 40)) ^ b ^ (b << 16);
  random_[1] = (b << 37) | (b >> 27);
  return static_cast<double>(result >> 11) * 0x1.0p-53;
}

void Sampler::note_seen(int32_t index) noexcept {
  seen_[static_cast<size_t>(index) >> 6] |= uint64_t{1} << (index & 63);
}

void Sampler::note_logprobs(std::span<const float> logits) noexcept {
  log_sum_ = draw_.log_sum(logits);
  const auto best = draw_.largest(logits, static_cast<size_t>(options_.num_logprobs), log_sum_);
  alternatives_.assign(best.begin(), best.end());
  for (TokenLogprob& alternative : alternatives_) alternative.token = tokens_.token(alternative.token);
}

void Sampler::penalize(std::span<float> logits) const noexcept {
  const auto repetition = static_cast<float>(options_.repetition_penalty);
  const bool counts = options_.presence_penalty != 0 || options_.frequency_penalty != 0;
  for (size_t word = 0; word < seen_.size() && (repetition != 1 || counts); ++word) {
    for (uint64_t bits = seen_[word]; bits != 0; bits &= bits - 1) {
      const size_t i = word * 64 + static_cast<size_t>(std::countr_zero(bits));
      logits[i] = logits[i] > 0 ? logits[i] / repetition : logits[i] * repetition;
      if (generated_[i] > 0)
        logits[i] -= static_cast<float>(options_.presence_penalty + options_.frequency_penalty * generated_[i]);
    }
  }
  for (const auto& [index, bias] : biases_) logits[static_cast<size_t>(index)] += bias;
}

int32_t Sampler::sample(std::span<float> logits, std::span<const uint64_t> allowed) noexcept {
  if (options_.num_logprobs > 0) {
    note_logprobs(logits);
    std::copy(logits.begin(), logits.end(), plain_.begin());
  }
  penalize(logits);
  forbid_others(logits, allowed, tokens_);
  const DrawRule rule{options_.temperature, options_.top_p, options_.top_k, options_.min_p};
  const int32_t index = options_.temperature == 0 ? argmax(logits) : draw_.draw(logits, rule, next_uniform());
  if (options_.num_logprobs > 0) last_logprob_ = plain_[static_cast<size_t>(index)] - log_sum_;
  return take(index);
}

bool Sampler::takes_best() const noexcept {
  return options_.temperature == 0 && options_.num_logprobs == 0 && options_.repetition_penalty == 1 &&
         options_.presence_penalty == 0 && options_.frequency_penalty == 0 && biases_.empty();
}

int32_t Sampler::take(int32_t index) noexcept {
  note_seen(index);
  auto& count = generated_[static_cast<size_t>(index)];
  if (count < UINT16_MAX) ++count;
  return tokens_.token(index);
}

}  // namespace edgewise
