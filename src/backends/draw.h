// A token drawn from the probabilities that logits stand for.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backends/draw_weight.h"

namespace edgewise {

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
};

// What is left of a distribution: temperature, then top-k, top-p and min-p.
struct DrawRule {
  double temperature = 1;  // above 0 for Draw
  double top_p = 1;        // nucleus: the smallest set of tokens with this much probability (arXiv:1904.09751)
  int top_k = 0;           // 0: all
  double min_p = 0;        // tokens at least this share as probable as the best one (arXiv:2407.01082)

  // A token weighs exp((logit - largest) * inverse()) where that power is at least floor(), else nothing.
  float inverse() const { return static_cast<float>(1.0 / temperature); }
  float floor() const;
  // How many tokens may be left of so many; zero: all of them.
  int most(size_t tokens) const { return top_k > 0 && static_cast<size_t>(top_k) < tokens ? top_k : 0; }
};

// How whoever has a row's logits finds its token. `uniform`: from [0, 1).
struct RowDraw {
  DrawRule rule;  // temperature 0: the largest logit
  double uniform = 0;
  std::span<const LogitChange> changes = {};  // of different logits; they outlive the step
  std::span<const uint64_t> allowed = {};     // a bit each logit, set where it may be chosen; empty: all may
};

// Works in time that grows with the vocabulary alone, by blocks that compilers make vectors of: only tokens that may be
// left are put in order. Allocates when it is made and not later.
class Draw {
 public:
  explicit Draw(size_t tokens);

  // The index of a token of `logits` [tokens]; minus infinity: never. Where all may be left it is the first one whose
  // weight and that of those before it are above the place of `uniform` in all weight; where some may, they are taken
  // by their weight, the largest and of equals the first one first. Equal arguments give equal results, here and on a
  // device. Where no logit is a number, what argmax() gives.
  int32_t draw(std::span<const float> logits, const DrawRule& rule, double uniform) noexcept;

  // The logarithm of the sum of all exponentials; `logits` [tokens].
  float log_sum(std::span<const float> logits) noexcept;
  // The `count` largest logits less `log_sum`, in order, equals by their index; they stay until the next call.
  std::span<const TokenLogprob> largest(std::span<const float> logits, size_t count, float log_sum) noexcept;

 private:
  void weigh(std::span<const float> logits, float largest, float inverse, float floor) noexcept;
  void gather(std::span<const float> values, size_t count) noexcept;
  void keep_first(size_t count) noexcept;
  uint64_t mass_of_candidates() const noexcept;
  uint64_t keep_mass(uint64_t mass) noexcept;
  int32_t draw_of_all(uint64_t place) const noexcept;

  static constexpr size_t kBlock = 64;
  std::vector<float> weights_;  // whole numbers
  std::vector<uint64_t> sums_;  // of each block's weights
  std::vector<float> maxima_;   // of each block's values
  std::vector<float> order_;    // of those, on their way to a threshold
  std::vector<TokenLogprob> candidates_;
};

}  // namespace edgewise
