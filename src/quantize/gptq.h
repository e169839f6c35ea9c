// GPTQ (arXiv:2210.17323): columns are rounded one after another, and what rounding one loses is made up for by those
// that follow, in the measure that the inputs' second moments say.
#pragma once

#include "quantize/weight_codes.h"

namespace edgewise {

// Upper triangular R with R^T R = (H + damping)^-1, for the column order that takes the largest diagonal of H first
// ("act-order" with static groups: no g_idx is needed at run time).
struct InverseFactor {
  std::vector<int64_t> order;  // order[i]: the column rounded i-th
  std::vector<double> upper;   // [k, k] row-major
};
// Throws Error(kInternal) when H is not positive definite even when damped.
InverseFactor factor_inverse(const FloatMatrix& second_moment);

// `clip` as for round_to_nearest; fixes the scales before columns are rounded.
WeightCodes gptq(const FloatMatrix& weight, const InverseFactor& factor, const QuantScheme& scheme, DType scale_dtype,
                 const std::vector<float>& clip);

}  // namespace edgewise
