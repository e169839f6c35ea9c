// Times a token's way from 152,064 logits, the vocabulary of Qwen 2.5, by options: few likely tokens among many, and a
// vocabulary whose tokens are all alike.
//   build/sampler_bench
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <vector>

#include "runtime/sampler.h"

namespace edgewise {
namespace {

// Median microseconds of a call.
double time_samples(const SamplingOptions& options, const std::vector<float>& logits) {
  constexpr size_t kRounds = 21;
  Sampler sampler(options, static_cast<int64_t>(logits.size()), {});
  std::vector<double> times;
  for (size_t i = 0; i < kRounds; ++i) {
    std::vector<float> copy = logits;
    const auto start = std::chrono::steady_clock::now();
    sampler.sample(copy);
    times.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
  }
  std::ranges::nth_element(times, times.begin() + kRounds / 2);
  return times[kRounds / 2];
}

void run() {
  constexpr size_t kVocabulary = 152064;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> alike(kVocabulary);
  for (float& logit : alike) logit = normal(random) * 0.5f;
  std::vector<float> peaked = alike;
  for (float& logit : peaked) logit *= 6;
  for (int i = 0; i < 40; ++i) peaked[random() % kVocabulary] = 10 + 2 * normal(random);
  struct Case {
    const char* name;
    SamplingOptions options;
  };
  const Case cases[] = {{"greedy", {}},
                        {"temperature 0.8", {.temperature = 0.8}},
                        {"temperature 0.8, top_p 0.95", {.temperature = 0.8, .top_p = 0.95}},
                        {"temperature 0.8, top_k 50", {.temperature = 0.8, .top_k = 50}},
                        {"temperature 0.8, min_p 0.05", {.temperature = 0.8, .min_p = 0.05}},
                        {"greedy, repetition_penalty 1.1", {.repetition_penalty = 1.1}},
                        {"greedy, 5 logprobs", {.num_logprobs = 5}}};
  fmt::print("{:34}{:>10}{:>10}\n", "us a token", "peaked", "alike");
  for (const auto& [name, options] : cases)
    fmt::print("{:34}{:10.0f}{:10.0f}\n", name, time_samples(options, peaked), time_samples(options, alike));
}

}  // namespace
}  // namespace edgewise

int main() { edgewise::run(); }
