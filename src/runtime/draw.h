// A token drawn from the probabilities that logits stand for.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace edgewise {

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
};

// What is left of a distribution: temperature, then top-k, top-p and min-p.
struct DrawRule {
  double temperature = 1;  // above 0
  double top_p = 1;        // nucleus: the smallest set of tokens with this much probability (arXiv:1904.09751)
  int top_k = 0;           // 0: all
  double min_p = 0;        // tokens at least this share as probable as the best one (arXiv:2407.01082)
};

// Works in time that grows with the vocabulary alone, by blocks that compilers make vectors of: only tokens that may be
// left are put in order. Allocates when it is made and not later.
class Draw {
 public:
  explicit Draw(size_t tokens);

  // The index of a token of `logits` [tokens]; minus infinity: never. `uniform`: from [0, 1). Equal arguments give
  // equal results. Where none is a number, what argmax() gives.
  int32_t draw(std::span<const float> logits, const DrawRule& rule, double uniform) noexcept;

  // The logarithm of the sum of all exponentials; `logits` [tokens].
  float log_sum(std::span<const float> logits) noexcept;
  // The `count` largest logits less `log_sum`, in order, equals by their index; they stay until the next call.
  std::span<const TokenLogprob> largest(std::span<const float> logits, size_t count, float log_sum) noexcept;

 private:
  void weigh(std::span<const float> logits, float largest, float inverse, float floor) noexcept;
  void gather(std::span<const float> values, size_t count) noexcept;
  void keep_first(size_t count) noexcept;
  double keep_mass(double mass) noexcept;
  int32_t draw_of_all(double target) const noexcept;

  static constexpr size_t kBlock = 64;
  std::vector<float> weights_;
  std::vector<float> sums_;    // of each block's weights
  std::vector<float> maxima_;  // of each block's values
  std::vector<float> order_;   // of those, on their way to a threshold
  std::vector<TokenLogprob> candidates_;
};

}  // namespace edgewise
