#include "backends/draw.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "backends/best_rows.h"

namespace edgewise {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

bool more_probable(const TokenLogprob& a, const TokenLogprob& b) {
  return a.logprob > b.logprob || (a.logprob == b.logprob && a.token < b.token);
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

// Forbidden tokens, at minus infinity, are below either.
float DrawRule::floor() const {
  return min_p > 0 ? static_cast<float>(std::log(min_p)) : std::numeric_limits<float>::lowest();
}

Draw::Draw(size_t tokens) : weights_(tokens) {
  const size_t blocks = (tokens + kBlock - 1) / kBlock;
  sums_.resize(blocks);
  maxima_.resize(blocks);
  order_.reserve(blocks);
  candidates_.reserve(tokens);
}

// Weights, and their sums by blocks.
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
      weight = where(power >= floor, draw_weight(power));
    }
    // Exact: 2^46 at most.
    std::array<double, 8> sums = {};
    for (size_t i = 0; i < kBlock; i += sums.size()) {
      for (size_t j = 0; j < sums.size(); ++j) sums[j] += double{weights[i + j]};
    }
    sums_[block] = static_cast<uint64_t>(std::accumulate(sums.begin(), sums.end(), 0.0));
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

uint64_t Draw::mass_of_candidates() const noexcept {
  uint64_t mass = 0;
  for (const TokenLogprob& candidate : candidates_) mass += static_cast<uint64_t>(candidate.logprob);
  return mass;
}

// The fewest candidates with so much weight, the largest first, of which the last one is the least; what they have
// together.
uint64_t Draw::keep_mass(uint64_t mass) noexcept {
  constexpr std::ptrdiff_t kFew = 64;
  auto first = candidates_.begin();
  auto last = candidates_.end();
  uint64_t sum = 0;  // of what lies before `first`, which stays
  while (last - first > kFew) {
    const auto middle = first + (last - first) / 2;
    std::nth_element(first, middle, last, more_probable);
    uint64_t larger = 0;
    for (auto i = first; i != middle; ++i) larger += static_cast<uint64_t>(i->logprob);
    if (sum + larger >= mass) {
      last = middle;
    } else {
      sum += larger;
      first = middle;
    }
  }
  std::sort(first, last, more_probable);
  while (first != last && sum < mass) sum += static_cast<uint64_t>((first++)->logprob);
  candidates_.erase(first, candidates_.end());
  return sum;
}

int32_t Draw::draw_of_all(uint64_t place) const noexcept {
  size_t block = 0;
  for (; place >= sums_[block]; ++block) place -= sums_[block];
  size_t i = block * kBlock;
  for (; place >= static_cast<uint64_t>(weights_[i]); ++i) place -= static_cast<uint64_t>(weights_[i]);
  return static_cast<int32_t>(i);
}

int32_t Draw::draw(std::span<const float> logits, const DrawRule& rule, double uniform) noexcept {
  const int32_t best = argmax(logits);
  weigh(logits, logits[static_cast<size_t>(best)], rule.inverse(), rule.floor());
  uint64_t mass = std::accumulate(sums_.begin(), sums_.end(), uint64_t{0});
  if (mass == 0) return best;  // none is a number
  const auto most = static_cast<size_t>(rule.most(logits.size()));
  if (most == 0 && rule.top_p >= 1) return draw_of_all(place_in(mass, uniform));
  if (most > 0) {
    gather(weights_, most);
    keep_first(most);
    mass = mass_of_candidates();
  }
  if (rule.top_p < 1) {
    mass = share_of(mass, rule.top_p);
    // The nucleus is small, most times.
    for (size_t count = 256; most == 0; count *= 8) {
      gather(weights_, std::min(count, logits.size()));
      if (mass_of_candidates() >= mass) break;
    }
    mass = keep_mass(mass);
  }
  keep_mass(place_in(mass, uniform) + 1);
  return candidates_.back().token;
}

float Draw::log_sum(std::span<const float> logits) noexcept {
  const float largest = logits[static_cast<size_t>(argmax(logits))];
  weigh(logits, largest, 1, std::numeric_limits<float>::lowest());
  const uint64_t total = std::accumulate(sums_.begin(), sums_.end(), uint64_t{0});
  return largest + static_cast<float>(std::log(static_cast<double>(total) / double{kMostWeight}));
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
