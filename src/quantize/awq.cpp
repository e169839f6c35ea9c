#include "quantize/awq.h"

#include <algorithm>
#include <cmath>

#include "base/thread_pool.h"

namespace edgewise {

FloatMatrix scale_columns(const FloatMatrix& weight, const std::vector<float>& s, bool inverse) {
  FloatMatrix result = weight;
  for (int64_t i = 0; i < weight.rows; ++i) {
    for (int64_t j = 0; j < weight.columns; ++j) {
      result.at(i, j) = inverse ? weight.at(i, j) / s[size_t(j)] : weight.at(i, j) * s[size_t(j)];
    }
  }
  return result;
}

void add_noise(InputStatistics& statistics) {
  FloatMatrix& moment = statistics.second_moment;
  double trace = 0;
  for (int64_t i = 0; i < moment.rows; ++i) trace += double{moment.at(i, i)};
  const auto mean = static_cast<float>(trace / static_cast<double>(moment.rows));
  for (int64_t i = 0; i < moment.rows; ++i) moment.at(i, i) += mean;
}

double output_error(const FloatMatrix& weight, const FloatMatrix& rounded, const TransposedProduct& moment) {
  FloatMatrix difference = weight;
  for (size_t i = 0; i < difference.data.size(); ++i) difference.data[i] -= rounded.data[i];
  const FloatMatrix image = moment(difference);
  double error = 0;
  for (size_t i = 0; i < image.data.size(); ++i) error += double{image.data[i]} * double{difference.data[i]};
  return error;
}

namespace {

// d^T H d over the columns [first, first + count) of H. Sums row by row, which compilers turn into vector code.
double quadratic_form(const FloatMatrix& h, int64_t first, const float* d, float* image, int64_t count) {
  std::fill(image, image + count, 0.0f);
  for (int64_t i = 0; i < count; ++i) {
    const float* row = h.data.data() + (first + i) * h.columns + first;
    const float factor = d[i];
    for (int64_t j = 0; j < count; ++j) image[j] += factor * row[j];
  }
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += double{image[i]} * double{d[i]};
  return sum;
}

}  // namespace

std::vector<float> search_clip(const FloatMatrix& weight, const FloatMatrix& second_moment, const QuantScheme& scheme,
                               DType scale_dtype) {
  const int64_t group = scheme.group_size > 0 ? scheme.group_size : weight.columns;
  const int64_t groups = (weight.columns + group - 1) / group;
  std::vector<float> best(static_cast<size_t>(weight.rows * groups), 1.0f);
  ThreadPool pool;
  pool.run([&](int worker) {
    const Range share = share_of(weight.rows, worker, pool.size());
    std::vector<float> difference(static_cast<size_t>(group));
    std::vector<float> image(static_cast<size_t>(group));
    for (int64_t row = share.begin; row < share.end; ++row) {
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t first = g * group;
        const int64_t count = std::min(group, weight.columns - first);
        float largest = 0;
        for (int64_t j = 0; j < count; ++j) largest = std::max(largest, std::fabs(weight.at(row, first + j)));
        double least = INFINITY;
        for (int step = 0; step <= 10; ++step) {
          const float clip = 1.0f - 0.05f * static_cast<float>(step);
          const float scale = scale_for(scheme.type, largest * clip, scale_dtype);
          for (int64_t j = 0; j < count; ++j) {
            const float w = weight.at(row, first + j);
            difference[static_cast<size_t>(j)] = w - round_code(scheme.type, w, scale) * scale;
          }
          const double error = quadratic_form(second_moment, first, difference.data(), image.data(), count);
          if (error < least) {
            least = error;
            best[static_cast<size_t>(row * groups + g)] = clip;
          }
        }
      }
    }
  });
  return best;
}

namespace {

// Mean magnitude of each input channel's weights, each row's group first brought to a largest of one.
std::vector<double> weight_magnitudes(const std::vector<FloatMatrix>& weights, const QuantScheme& scheme) {
  const int64_t k = weights[0].columns;
  const int64_t group = scheme.group_size > 0 ? scheme.group_size : k;
  std::vector<double> sum(static_cast<size_t>(k), 0.0);
  int64_t rows = 0;
  for (const FloatMatrix& weight : weights) {
    rows += weight.rows;
    for (int64_t i = 0; i < weight.rows; ++i) {
      for (int64_t first = 0; first < k; first += group) {
        const int64_t end = std::min(k, first + group);
        float largest = 1e-12f;
        for (int64_t j = first; j < end; ++j) largest = std::max(largest, std::fabs(weight.at(i, j)));
        for (int64_t j = first; j < end; ++j) sum[size_t(j)] += double{std::fabs(weight.at(i, j))} / double{largest};
      }
    }
  }
  for (double& value : sum) value /= static_cast<double>(rows);
  return sum;
}

// Error of int8 activations with a scale a token: uniform noise of one step, scaled back by s.
double activation_error(const std::vector<FloatMatrix>& weights, const InputStatistics& statistics,
                        const std::vector<float>& s) {
  double step = 0;
  for (size_t j = 0; j < s.size(); ++j) step = std::max(step, double{statistics.largest[j]} / double{s[j]} / 127.0);
  double gain = 0;
  for (const FloatMatrix& weight : weights) {
    for (int64_t i = 0; i < weight.rows; ++i) {
      for (int64_t j = 0; j < weight.columns; ++j) {
        const double w = double{weight.at(i, j)} * double{s[size_t(j)]};
        gain += w * w;
      }
    }
  }
  return gain * step * step / 12.0 * static_cast<double>(statistics.tokens);
}

double total_error(const std::vector<FloatMatrix>& weights, const InputStatistics& statistics,
                   const QuantScheme& scheme, const TransposedProduct& moment, DType scale_dtype,
                   const std::vector<float>& s) {
  double error = 0;
  for (const FloatMatrix& weight : weights) {
    const auto codes = round_to_nearest(scale_columns(weight, s), scheme, scale_dtype);
    error += output_error(weight, scale_columns(codes.dequantized(), s, true), moment);
  }
  if (scheme.int8_activations) error += activation_error(weights, statistics, s);
  return error;
}

}  // namespace

std::vector<float> search_channel_scales(const std::vector<FloatMatrix>& weights, const InputStatistics& statistics,
                                         const QuantScheme& scheme, DType scale_dtype) {
  const auto k = static_cast<size_t>(weights[0].columns);
  const auto by_weight = weight_magnitudes(weights, scheme);
  std::vector<float> best(k, 1.0f);
  int64_t rows = 0;
  for (const FloatMatrix& weight : weights) rows = std::max(rows, weight.rows);
  const TransposedProduct moment(statistics.second_moment, rows);
  double least = total_error(weights, statistics, scheme, moment, scale_dtype, best);
  for (int step = 1; step <= 10; ++step) {
    const double a = 0.1 * step;
    for (const double b : {0.0, 1.0 - a}) {
      std::vector<float> s(k);
      float low = INFINITY;
      float high = 0;
      for (size_t j = 0; j < k; ++j) {
        const double x = scheme.int8_activations ? double{statistics.largest[j]}
                                                 : statistics.magnitude[j] / static_cast<double>(statistics.tokens);
        s[j] = static_cast<float>(
            std::max(std::pow(std::max(x, 1e-8), a) / std::pow(std::max(by_weight[j], 1e-4), b), 1e-4));
        low = std::min(low, s[j]);
        high = std::max(high, s[j]);
      }
      const float middle = std::sqrt(low * high);
      for (float& value : s) value /= middle;
      const double error = total_error(weights, statistics, scheme, moment, scale_dtype, s);
      if (error < least) {
        least = error;
        best = std::move(s);
      }
      if (a == 1.0) break;
    }
  }
  return best;
}

}  // namespace edgewise
