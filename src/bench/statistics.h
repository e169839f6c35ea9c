#pragma once

#include <span>
#include <vector>

#include "formats/json.h"

namespace edgewise {

struct Summary {
  size_t count = 0;
  double mean = 0;
  double median = 0;  // p50
  double p90 = 0;
  double p99 = 0;
  double deviation = 0;   // sample standard deviation
  double confidence = 0;  // half width of the 95% interval of the mean (Student's t)
};

// Percentiles interpolate linearly between samples. All zero for no samples.
Summary summarize(std::vector<double> samples);
OrderedJson to_json(const Summary& summary);

// log(sum(exp(x))) of a row of logits.
double log_sum_exp(std::span<const float> logits);
// KL(softmax(expected) || softmax(found)) in nats; rows of the same length.
double kl_divergence(std::span<const float> expected, std::span<const float> found);

}  // namespace edgewise
