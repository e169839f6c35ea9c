#include "bench/statistics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

namespace edgewise {
namespace {

// Two-sided 95% quantiles of Student's t for 1 to 30 degrees of freedom; the normal one beyond.
constexpr std::array kStudent = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
                                 2.201,  2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
                                 2.080,  2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042};

double percentile(const std::vector<double>& sorted, double share) {
  const double at = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

}  // namespace

Summary summarize(std::vector<double> samples) {
  Summary s;
  s.count = samples.size();
  if (samples.empty()) return s;
  std::sort(samples.begin(), samples.end());
  const auto n = static_cast<double>(samples.size());
  s.mean = std::accumulate(samples.begin(), samples.end(), 0.0) / n;
  s.median = percentile(samples, 0.5);
  s.p90 = percentile(samples, 0.9);
  s.p99 = percentile(samples, 0.99);
  if (samples.size() < 2) return s;
  double squares = 0;
  for (const double sample : samples) squares += (sample - s.mean) * (sample - s.mean);
  s.deviation = std::sqrt(squares / (n - 1));
  const size_t freedom = samples.size() - 1;
  s.confidence = (freedom <= kStudent.size() ? kStudent[freedom - 1] : 1.96) * s.deviation / std::sqrt(n);
  return s;
}

OrderedJson to_json(const Summary& s) {
  return {{"count", s.count},
          {"mean", s.mean},
          {"p50", s.median},
          {"p90", s.p90},
          {"p99", s.p99},
          {"standard_deviation", s.deviation},
          {"confidence_95", s.confidence}};
}

double log_sum_exp(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(double{x} - largest);
  return largest + std::log(sum);
}

double kl_divergence(std::span<const float> expected, std::span<const float> found) {
  const double expected_sum = log_sum_exp(expected);
  const double found_sum = log_sum_exp(found);
  double kl = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double p = double{expected[i]} - expected_sum;
    kl += std::exp(p) * (p - (double{found[i]} - found_sum));
  }
  return kl;
}

}  // namespace edgewise
