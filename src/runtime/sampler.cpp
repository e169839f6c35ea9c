#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "base/error.h"

namespace edgewise {
namespace {

uint64_t split_mix(uint64_t& state) {
  uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

bool more_probable(const TokenLogprob& a, const TokenLogprob& b) {
  return a.logprob > b.logprob || (a.logprob == b.logprob && a.token < b.token);
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

int32_t argmax(std::span<const float> logits) noexcept {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

Sampler::Sampler(const SamplingOptions& options, int64_t vocabulary, std::span<const int32_t> prompt)
    : options_(options) {
  const auto size = static_cast<size_t>(vocabulary);
  generated_.assign(size, 0);
  seen_.assign(size, false);
  for (const int32_t token : prompt) {
    if (token >= 0 && token < vocabulary) seen_[static_cast<size_t>(token)] = true;
  }
  candidates_.reserve(size);
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

void Sampler::note_logprobs(std::span<const float> logits) noexcept {
  const float largest = logits[static_cast<size_t>(argmax(logits))];
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double{logit} - double{largest});
  log_sum_ = largest + static_cast<float>(std::log(sum));
  const auto count = std::min(static_cast<size_t>(options_.num_logprobs), logits.size());
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) candidates_.push_back({static_cast<int32_t>(i), logits[i] - log_sum_});
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(count), candidates_.end(),
                    more_probable);
  alternatives_.assign(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(count));
}

void Sampler::penalize(std::span<float> logits) const noexcept {
  const auto repetition = static_cast<float>(options_.repetition_penalty);
  if (repetition != 1) {
    for (size_t i = 0; i < logits.size(); ++i) {
      if (seen_[i]) logits[i] = logits[i] > 0 ? logits[i] / repetition : logits[i] * repetition;
    }
  }
  if (options_.presence_penalty != 0 || options_.frequency_penalty != 0) {
    for (size_t i = 0; i < logits.size(); ++i) {
      if (generated_[i] == 0) continue;
      logits[i] -= static_cast<float>(options_.presence_penalty + options_.frequency_penalty * generated_[i]);
    }
  }
  for (const auto& [token, bias] : options_.logit_bias) logits[static_cast<size_t>(token)] += bias;
}

// Temperature, then top-k, top-p and min-p, then a draw from what is left.
int32_t Sampler::draw(std::span<const float> logits) noexcept {
  const auto inverse = static_cast<float>(1.0 / options_.temperature);
  const float largest = logits[static_cast<size_t>(argmax(logits))];
  const auto floor = options_.min_p > 0 ? static_cast<float>(std::log(options_.min_p)) : -INFINITY;
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    const float scaled = (logits[i] - largest) * inverse;
    if (scaled >= floor) candidates_.push_back({static_cast<int32_t>(i), scaled});
  }
  if (candidates_.empty()) return argmax(logits);  // none is a number
  const auto k = static_cast<size_t>(options_.top_k);
  if (k > 0 && k < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(k), candidates_.end(),
                     more_probable);
    candidates_.resize(k);
  }
  if (options_.top_p < 1) std::sort(candidates_.begin(), candidates_.end(), more_probable);
  double total = 0;
  for (const TokenLogprob& candidate : candidates_) total += std::exp(double{candidate.logprob});
  double kept = total;
  if (options_.top_p < 1) {
    double sum = 0;
    size_t count = 0;
    while (count < candidates_.size() && sum < options_.top_p * total)
      sum += std::exp(double{candidates_[count++].logprob});
    candidates_.resize(std::max<size_t>(count, 1));
    kept = sum;
  }
  double target = next_uniform() * kept;
  for (const TokenLogprob& candidate : candidates_) {
    target -= std::exp(double{candidate.logprob});
    if (target < 0) return candidate.token;
  }
  return candidates_.back().token;
}

int32_t Sampler::sample(std::span<float> logits) noexcept {
  if (options_.num_logprobs > 0) {
    note_logprobs(logits);
    std::copy(logits.begin(), logits.end(), plain_.begin());
  }
  penalize(logits);
  const int32_t token = options_.temperature == 0 ? argmax(logits) : draw(logits);
  if (options_.num_logprobs > 0) last_logprob_ = plain_[static_cast<size_t>(token)] - log_sum_;
  seen_[static_cast<size_t>(token)] = true;
  auto& count = generated_[static_cast<size_t>(token)];
  if (count < UINT16_MAX) ++count;
  return token;
}

}  // namespace edgewise
