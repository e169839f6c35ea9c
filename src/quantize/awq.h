// AWQ (arXiv:2306.00978) and SmoothQuant (arXiv:2211.10438): scale the inputs of Linears channel by channel, so that
// what matters is rounded more finely; and the search for where to clip a group.
#pragma once

#include "quantize/weight_codes.h"

namespace edgewise {

// What calibration saw of one activation [tokens, k].
struct InputStatistics {
  int64_t tokens = 0;
  FloatMatrix second_moment;      // [k, k]: sum over tokens of x x^T
  std::vector<double> magnitude;  // [k]: sum of |x|
  std::vector<float> largest;     // [k]: largest |x|
};

// Adds to the second moment what white noise as strong as the inputs would: otherwise the searches below give away the
// directions that the calibration text happens not to visit, and other text pays for it.
void add_noise(InputStatistics& statistics);

// Squared error of the outputs over the calibration tokens when `weight` becomes `rounded`; `moment` multiplies by the
// second moment of the inputs.
double output_error(const FloatMatrix& weight, const FloatMatrix& rounded, const TransposedProduct& moment);

// For each row and group the factor on its largest magnitude that loses least output, from 1 down to 0.5.
std::vector<float> search_clip(const FloatMatrix& weight, const FloatMatrix& second_moment, const QuantScheme& scheme,
                               DType scale_dtype);

// The channel scales s [k] (x / s, weight * s) that lose least output over all `weights` reading the same input, by a
// search over s = magnitude^a / weight^b; all ones when no candidate is better than none. With int8 activations their
// rounding counts too.
std::vector<float> search_channel_scales(const std::vector<FloatMatrix>& weights, const InputStatistics& statistics,
                                         const QuantScheme& scheme, DType scale_dtype);

// Columns of `weight` times s, and of the second moment's rows and columns by 1/s.
FloatMatrix scale_columns(const FloatMatrix& weight, const std::vector<float>& s, bool inverse = false);

}  // namespace edgewise
