#include "runtime/draw.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "backends/best_rows.h"

namespace edgewise {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

bool more_probable(const TokenLogprob& a, const TokenLogprob& b) {
  return a.logprob > b.logprob || (a.logprob == b.logprob && a.token < b.token);
}

// `x` or, where it does not hold, zero: without a branch, which compilers make where sums might trap.
float where(bool holds, float x) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(x) & -static_cast<uint32_t>(holds));
}

// exp(x) for x up to 0, to 2e-7 of it; zero below -87 and for what is no number. Without branches and calls, so that it
// becomes vectors: 2^x is 2^n of its whole part times a polynomial (Taylor's, of ln 2 times what is left).
float exp_of(float x) {
  const bool small = x > -87.0f;
  const float near = where(small, x);
  const auto whole = static_cast<int32_t>(near * 1.44269504f - 0.5f);  // to nearest, of what is not positive
  const float f = (near - static_cast<float>(whole) * 0.693359375f) + static_cast<float>(whole) * 2.12194440e-4f;
  const float cubed = ((((f / 5040 + 1.0f / 720) * f + 1.0f / 120) * f + 1.0f / 24) * f + 1.0f / 6) * f;
  const float power = ((cubed + 0.5f) * f + 1) * f + 1;
  return where(small, power * std::bit_cast<float>((whole + 127) << 23));
}

// Of what are numbers.
float largest_of(std::span<const float> values) {
  std::array<float, 8> largest;
  largest.fill(kNothing);
  size_t i = 0;
  for (; i + largest.size() <= values.size(); i += largest.size()) {
    for (size_t j = 0; j < largest.size(); ++j) largest[j] = values[i + j] > largest[j] ? values[i + j] : largest[j];
  }
  for (; i < values.size(); ++i) largest[0] = std::max(largest[0], values[i]);
  return *std::ranges::max_element(largest);
}

}  // namespace

Draw::Draw(size_t tokens) : weights_(tokens) {
  const size_t blocks = (tokens + kBlock - 1) / kBlock;
  sums_.resize(blocks);
  maxima_.resize(blocks);
  order_.reserve(blocks);
  candidates_.reserve(tokens);
}

// exp((logit - largest) * inverse) where that power is at least `floor`, and their sums by blocks.
void Draw::weigh(std::span<const float> logits, float largest, float inverse, float floor) noexcept {
  for (size_t block = 0; block < sums_.size(); ++block) {
    const size_t begin = block * kBlock;
    const size_t count = std::min(kBlock, logits.size() - begin);
    float* const to = weights_.data() + begin;
    // Of a fixed length and nobody else's, so that compilers make vectors of them.
    std::array<float, kBlock> weights;
    std::copy_n(logits.data() + begin, count, weights.data());
    std::fill(weights.begin() + static_cast<std::ptrdiff_t>(count), weights.end(), kNothing);
    if ((largest_of(weights) - largest) * inverse < floor) {
      sums_[block] = 0;
      std::fill_n(to, count, 0.0f);
      continue;
    }
    for (float& weight : weights) {
      const float power = (weight - largest) * inverse;
      weight = where(power >= floor, exp_of(power));
    }
    std::array<float, 8> sums = {};
    for (size_t i = 0; i < kBlock; i += sums.size()) {
      for (size_t j = 0; j < sums.size(); ++j) sums[j] += weights[i + j];
    }
    sums_[block] = ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
    std::copy_n(weights.data(), count, to);
  }
}

// The `count` largest values, and others that are as large as the least of the `count` largest blocks' maxima.
void Draw::gather(std::span<const float> values, size_t count) noexcept {
  for (size_t block = 0; block < maxima_.size(); ++block) {
    maxima_[block] = largest_of(values.subspan(block * kBlock, std::min(kBlock, values.size() - block * kBlock)));
  }
  float least = kNothing;
  if (count <= maxima_.size()) {
    order_ = maxima_;
    const auto last = order_.begin() + static_cast<std::ptrdiff_t>(count - 1);
    std::ranges::nth_element(order_, last, std::greater());
    least = *last;
  }
  candidates_.clear();
  for (size_t block = 0; block < maxima_.size(); ++block) {
    if (maxima_[block] < least) continue;
    const size_t end = std::min(values.size(), (block + 1) * kBlock);
    for (size_t i = block * kBlock; i < end; ++i) {
      if (values[i] >= least) candidates_.push_back({static_cast<int32_t>(i), values[i]});
    }
  }
}

void Draw::keep_first(size_t count) noexcept {
  if (count >= candidates_.size()) return;
  std::ranges::nth_element(candidates_, candidates_.begin() + static_cast<std::ptrdiff_t>(count), more_probable);
  candidates_.resize(count);
}

// The fewest candidates with so much weight, the largest first; what they have together.
double Draw::keep_mass(double mass) noexcept {
  constexpr std::ptrdiff_t kFew = 64;
  auto first = candidates_.begin();
  auto last = candidates_.end();
  double sum = 0;  // of what lies before `first`, which stays
  while (last - first > kFew) {
    const auto middle = first + (last - first) / 2;
    std::nth_element(first, middle, last, more_probable);
    double larger = 0;
    for (auto i = first; i != middle; ++i) larger += i->logprob;
    if (sum + larger >= mass) {
      last = middle;
    } else {
      sum += larger;
      first = middle;
    }
  }
  std::sort(first, last, more_probable);
  while (first != last && sum < mass) sum += (first++)->logprob;
  candidates_.erase(std::max(first, candidates_.begin() + 1), candidates_.end());
  return sum;
}

int32_t Draw::draw_of_all(double target) const noexcept {
  int32_t found = -1;
  for (size_t block = 0; block < sums_.size(); ++block) {
    if (sums_[block] == 0) continue;
    const bool here = target < sums_[block];
    const size_t end = std::min(weights_.size(), (block + 1) * kBlock);
    // Sums of a block are rounded: its last token is as good as none.
    for (size_t i = block * kBlock; i < end; ++i) {
      if (weights_[i] == 0) continue;
      found = static_cast<int32_t>(i);
      if (!here) continue;
      target -= weights_[i];
      if (target < 0) return found;
    }
    if (here) return found;
    target -= sums_[block];
  }
  return found;
}

int32_t Draw::draw(std::span<const float> logits, const DrawRule& rule, double uniform) noexcept {
  const float largest = logits[static_cast<size_t>(argmax(logits))];
  // Forbidden tokens, at minus infinity, are below either.
  const auto floor = rule.min_p > 0 ? static_cast<float>(std::log(rule.min_p)) : std::numeric_limits<float>::lowest();
  weigh(logits, largest, static_cast<float>(1.0 / rule.temperature), floor);
  double total = 0;
  for (const float sum : sums_) total += sum;
  if (!(total > 0)) return argmax(logits);  // none is a number
  const auto k = static_cast<size_t>(rule.top_k);
  const bool few = k > 0 && k < logits.size();
  if (!few && rule.top_p >= 1) return draw_of_all(uniform * total);
  if (few) {
    gather(weights_, k);
    keep_first(k);
    total = 0;
    for (const TokenLogprob& candidate : candidates_) total += candidate.logprob;
  }
  double kept = total;
  if (rule.top_p < 1) {
    // The nucleus is small, most times.
    for (size_t count = 256; !few; count *= 8) {
      gather(weights_, std::min(count, logits.size()));
      double mass = 0;
      for (const TokenLogprob& candidate : candidates_) mass += candidate.logprob;
      if (mass >= rule.top_p * total || count >= logits.size()) break;
    }
    kept = keep_mass(rule.top_p * total);
  }
  double target = uniform * kept;
  int32_t found = -1;
  for (const TokenLogprob& candidate : candidates_) {
    if (candidate.logprob > 0) found = candidate.token;
    target -= candidate.logprob;
    if (target < 0) break;
  }
  return found;
}

float Draw::log_sum(std::span<const float> logits) noexcept {
  const float largest = logits[static_cast<size_t>(argmax(logits))];
  weigh(logits, largest, 1, std::numeric_limits<float>::lowest());
  double total = 0;
  for (const float sum : sums_) total += sum;
  return largest + static_cast<float>(std::log(total));
}

std::span<const TokenLogprob> Draw::largest(std::span<const float> logits, size_t count, float log_sum) noexcept {
  count = std::min(count, logits.size());
  gather(logits, count);
  count = std::min(count, candidates_.size());
  std::ranges::partial_sort(candidates_, candidates_.begin() + static_cast<std::ptrdiff_t>(count), more_probable);
  candidates_.resize(count);
  for (TokenLogprob& candidate : candidates_) candidate.logprob -= log_sum;
  return candidates_;
}

}  // namespace edgewise
