#include "runtime/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>

#include "backends/backend.h"
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
      uniforms_(options.seed ? *options.seed : (uint64_t{std::random_device{}()} << 32) ^ std::random_device{}()),
      draw_(options.temperature > 0 || options.num_logprobs > 0 ? tokens.count() : 0) {
  if (changes_logits()) note_prompt(prompt);
  if (options.num_logprobs > 0) plain_.resize(tokens.count());
  alternatives_.reserve(static_cast<size_t>(options.num_logprobs) + 1);
}

Uniforms::Uniforms(uint64_t seed) {
  for (uint64_t* const state : {&a_, &b_}) {
    uint64_t z = seed += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    *state = z ^ (z >> 31);
  }
}

double Uniforms::next() noexcept {
  const uint64_t result = a_ + b_;
  const uint64_t b = a_ ^ b_;
  a_ = std::rotl(a_, 24) ^ b ^ (b << 16);
  b_ = std::rotl(b, 37);
  return static_cast<double>(result >> 11) * 0x1.0p-53;
}

double Sampler::uniform(int ahead) const noexcept {
  Uniforms uniforms = uniforms_;
  for (int i = 0; i < ahead; ++i) uniforms.next();
  return uniforms.next();
}

bool Sampler::changes_logits() const noexcept {
  return options_.repetition_penalty != 1 || options_.presence_penalty != 0 || options_.frequency_penalty != 0 ||
         !options_.logit_bias.empty();
}

void Sampler::note_prompt(std::span<const int32_t> prompt) {
  std::vector<int32_t> seen;
  for (const int32_t token : prompt) {
    if (const int32_t index = tokens_.index(token); index >= 0) seen.push_back(index);
  }
  std::ranges::sort(seen);
  seen.erase(std::ranges::unique(seen).begin(), seen.end());
  changes_.reserve(tokens_.count());
  for (const int32_t index : seen) changes_.push_back({index, static_cast<float>(options_.repetition_penalty)});
  for (const auto& [token, bias] : options_.logit_bias) {
    if (const int32_t index = tokens_.index(token); index >= 0) change_of(index).add = bias;
  }
}

LogitChange& Sampler::change_of(int32_t index) noexcept {
  const auto found = std::ranges::lower_bound(changes_, index, {}, &LogitChange::index);
  return found != changes_.end() && found->index == index ? *found : *changes_.insert(found, {index});
}

void Sampler::note_logprobs(std::span<const float> logits) noexcept {
  log_sum_ = draw_.log_sum(logits);
  const auto best = draw_.largest(logits, static_cast<size_t>(options_.num_logprobs), log_sum_);
  alternatives_.assign(best.begin(), best.end());
  for (TokenLogprob& alternative : alternatives_) alternative.token = tokens_.token(alternative.token);
}

int32_t Sampler::sample(std::span<float> logits, std::span<const uint64_t> allowed) noexcept {
  if (options_.num_logprobs > 0) {
    note_logprobs(logits);
    std::copy(logits.begin(), logits.end(), plain_.begin());
  }
  for (const LogitChange& change : changes_) {
    float& logit = logits[static_cast<size_t>(change.index)];
    logit = changed_logit(logit, change);
  }
  forbid_others(logits, allowed, tokens_);
  const int32_t index = options_.temperature == 0 ? argmax(logits) : draw_.draw(logits, rule(), uniform(0));
  if (options_.num_logprobs > 0) last_logprob_ = plain_[static_cast<size_t>(index)] - log_sum_;
  return take(index);
}

int32_t Sampler::ask(int ahead, std::span<const uint64_t> allowed, RowDraw& draw) const noexcept {
  const bool masked = !allowed.empty();
  if (options_.num_logprobs > 0 || (masked && tokens_.reduced())) return kKeepLogits;
  if (ahead > 0 && (masked || changes_logits())) return kKeepLogits;  // the tokens in between matter
  if (options_.temperature == 0 && !masked && !changes_logits()) return kPickBest;
  draw = {rule(), uniform(ahead), changes_, allowed};
  return kDraw;
}

int32_t Sampler::take(int32_t index) noexcept {
  if (options_.temperature > 0) uniforms_.next();
  if (changes_logits()) {
    LogitChange& change = change_of(index);
    change.repetition_penalty = static_cast<float>(options_.repetition_penalty);
    if (change.times == 0) change.add -= static_cast<float>(options_.presence_penalty);
    change.add -= static_cast<float>(options_.frequency_penalty);
    ++change.times;
  }
  return tokens_.token(index);
}

}  // namespace edgewise
