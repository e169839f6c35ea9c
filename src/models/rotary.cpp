#include "models/rotary.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace edgewise {
namespace {

// float32 steps throughout, as transformers computes them: the last bits of a frequency matter at position 100,000.
std::vector<float> base_frequencies(double theta, int64_t dim) {
  std::vector<float> result;
  for (int64_t i = 0; i < dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(dim);
    result.push_back(1.0f / std::pow(static_cast<float>(theta), exponent));
  }
  return result;
}

std::vector<float> llama3(std::vector<float> inv_freq, const JsonView& p) {
  const double factor = p.number("factor");
  const double low = p.number("low_freq_factor");
  const double high = p.number("high_freq_factor");
  const double original = p.number("original_max_position_embeddings");
  for (float& frequency : inv_freq) {
    const double wavelength = 2 * std::numbers::pi / double{frequency};
    if (wavelength > original / low) {
      frequency = static_cast<float>(double{frequency} / factor);
    } else if (wavelength >= original / high) {
      const double smooth = (original / wavelength - low) / (high - low);
      frequency = static_cast<float>((1 - smooth) * double{frequency} / factor + smooth * double{frequency});
    }
  }
  return inv_freq;
}

double yarn_scale(double factor, double mscale) { return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0; }

RotaryFrequencies yarn(const JsonView& p, double theta, int64_t dim, int64_t max_positions) {
  const double original = p.number("original_max_position_embeddings", static_cast<double>(max_positions));
  const double factor = p.number("factor");
  const double mscale = p.number("mscale", 0.0);
  const double mscale_all = p.number("mscale_all_dim", 0.0);
  const double by_mscale = mscale != 0 && mscale_all != 0 ? yarn_scale(factor, mscale) / yarn_scale(factor, mscale_all)
                                                          : yarn_scale(factor, 1.0);
  // The dimension whose wavelength makes `rotations` turns over the original context.
  const auto dimension = [&](double rotations) {
    return static_cast<double>(dim) * std::log(original / (rotations * 2 * std::numbers::pi)) / (2 * std::log(theta));
  };
  double low = dimension(p.number("beta_fast", 32.0));
  double high = dimension(p.number("beta_slow", 1.0));
  if (p.boolean("truncate", true)) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dim - 1));
  if (low == high) high += 0.001;
  RotaryFrequencies result;
  result.inv_freq = base_frequencies(theta, dim);
  for (size_t i = 0; i < result.inv_freq.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    const double frequency = result.inv_freq[i];
    result.inv_freq[i] = static_cast<float>(frequency / factor * ramp + frequency * (1 - ramp));
  }
  result.scale = p.number("attention_factor", by_mscale);
  return result;
}

RotaryFrequencies longrope(const JsonView& p, double theta, int64_t dim, int64_t max_positions) {
  const auto divided = [&](const std::string& key) {
    const auto factors = p.numbers(key);
    auto inv_freq = base_frequencies(theta, dim);
    if (factors.size() != inv_freq.size()) p.reject(key, fmt::format("{} factors", inv_freq.size()));
    for (size_t i = 0; i < factors.size(); ++i) {
      const float exponent = static_cast<float>(2 * i) / static_cast<float>(dim);
      inv_freq[i] = 1.0f / (static_cast<float>(factors[i]) * std::pow(static_cast<float>(theta), exponent));
    }
    return inv_freq;
  };
  RotaryFrequencies result;
  const double original = p.number("original_max_position_embeddings", static_cast<double>(max_positions));
  const double factor = original < static_cast<double>(max_positions) ? static_cast<double>(max_positions) / original
                                                                      : p.number("factor", 1.0);
  result.inv_freq = divided("short_factor");
  result.long_inv_freq = divided("long_factor");
  const double scale = factor <= 1 ? 1.0 : std::sqrt(1 + std::log(factor) / std::log(original));
  result.scale = p.number("attention_factor", scale);
  result.long_scale = result.scale;
  result.threshold = static_cast<int64_t>(original);
  return result;
}

}  // namespace

RotaryFrequencies rotary_frequencies(const JsonView& p, int64_t dim, int64_t max_positions) {
  const double theta = p.number("rope_theta", 10000.0);
  const std::string type = p.string("rope_type", "default");
  if (theta <= 0) p.reject("rope_theta", "a positive number");
  RotaryFrequencies result;
  result.inv_freq = base_frequencies(theta, dim);
  if (type == "default" || type == "dynamic") return result;
  if (type == "linear") {
    for (float& frequency : result.inv_freq) frequency /= static_cast<float>(p.number("factor"));
    return result;
  }
  if (type == "llama3") {
    result.inv_freq = llama3(std::move(result.inv_freq), p);
    return result;
  }
  if (type == "yarn") return yarn(p, theta, dim, max_positions);
  if (type == "longrope" || type == "su") return longrope(p, theta, dim, max_positions);
  unsupported("{}: rope_type {} is not supported; there are default, linear, dynamic, llama3, yarn, longrope",
              p.where(), type);
}

}  // namespace edgewise
