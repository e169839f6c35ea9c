#include "quantize/gptq.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/thread_pool.h"

namespace edgewise {
namespace {

// Lower Cholesky factor in place; false when a pivot is not positive.
bool cholesky(std::vector<double>& a, int64_t k, ThreadPool& pool) {
  for (int64_t j = 0; j < k; ++j) {
    double* row_j = a.data() + j * k;
    double pivot = row_j[j];
    for (int64_t p = 0; p < j; ++p) pivot -= row_j[p] * row_j[p];
    if (!(pivot > 0)) return false;
    row_j[j] = std::sqrt(pivot);
    pool.run([&](int worker) {
      const Range share = share_of(k - j - 1, worker, pool.size(), 8);
      for (int64_t i = j + 1 + share.begin; i < j + 1 + share.end; ++i) {
        double* row_i = a.data() + i * k;
        double sum[4] = {};
        int64_t p = 0;
        for (; p + 4 <= j; p += 4) {
          for (int64_t q = 0; q < 4; ++q) sum[q] += row_i[p + q] * row_j[p + q];
        }
        for (; p < j; ++p) sum[0] += row_i[p] * row_j[p];
        row_i[j] = (row_i[j] - (sum[0] + sum[1] + sum[2] + sum[3])) / row_j[j];
      }
    });
  }
  return true;
}

// Inverse of an upper triangular matrix.
std::vector<double> invert_upper(const std::vector<double>& u, int64_t k, ThreadPool& pool) {
  std::vector<double> inverse(u.size(), 0.0);
  pool.run([&](int worker) {
    // Row i solves x U = e_i from left to right; rows are independent.
    for (int64_t i = worker; i < k; i += pool.size()) {
      double* x = inverse.data() + i * k;
      std::vector<double> rest(static_cast<size_t>(k), 0.0);
      rest[static_cast<size_t>(i)] = 1;
      for (int64_t j = i; j < k; ++j) {
        x[j] = rest[static_cast<size_t>(j)] / u[static_cast<size_t>(j * k + j)];
        const double* row = u.data() + j * k;
        for (int64_t c = j + 1; c < k; ++c) rest[static_cast<size_t>(c)] -= x[j] * row[c];
      }
    }
  });
  return inverse;
}

}  // namespace

InverseFactor factor_inverse(const FloatMatrix& h) {
  const int64_t k = h.rows;
  InverseFactor result;
  result.order.resize(static_cast<size_t>(k));
  std::iota(result.order.begin(), result.order.end(), int64_t{0});
  std::stable_sort(result.order.begin(), result.order.end(),
                   [&](int64_t a, int64_t b) { return h.at(a, a) > h.at(b, b); });
  double mean = 0;
  for (int64_t i = 0; i < k; ++i) mean += double{h.at(i, i)} / static_cast<double>(k);
  ThreadPool pool;
  for (double damping = 0.01; damping < 10; damping *= 10) {
    // With rows and columns reversed, the lower factor L of J H J gives H = U U^T with U = J L J upper triangular;
    // then H^-1 = R^T R with R = U^-1.
    std::vector<double> reversed(static_cast<size_t>(k * k));
    const auto column = [&](int64_t i) { return result.order[static_cast<size_t>(k - 1 - i)]; };
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j <= i; ++j) {
        reversed[static_cast<size_t>(i * k + j)] =
            double{h.at(column(i), column(j))} + (i == j ? damping * mean + 1e-12 : 0.0);
      }
    }
    if (!cholesky(reversed, k, pool)) continue;
    std::vector<double> upper(static_cast<size_t>(k * k), 0.0);
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j <= i; ++j) upper[size_t((k - 1 - i) * k + (k - 1 - j))] = reversed[size_t(i * k + j)];
    }
    result.upper = invert_upper(upper, k, pool);
    return result;
  }
  fail(ErrorKind::kInternal, "GPTQ: the inputs' second moments are not finite");
}

WeightCodes gptq(const FloatMatrix& weight, const InverseFactor& factor, const QuantScheme& scheme, DType scale_dtype,
                 const std::vector<float>& clip) {
  WeightCodes result = round_to_nearest(weight, scheme, scale_dtype, clip);
  const int64_t k = weight.columns;
  ThreadPool pool;
  pool.run([&](int worker) {
    // A few rows share each pass over the factor, which is larger than they are.
    constexpr int64_t kRowsAtOnce = 8;
    const Range share = share_of(weight.rows, worker, pool.size(), kRowsAtOnce);
    std::vector<double> values(static_cast<size_t>(kRowsAtOnce * k));
    for (int64_t first = share.begin; first < share.end; first += kRowsAtOnce) {
      const int64_t rows = std::min(kRowsAtOnce, share.end - first);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < k; ++i) values[size_t(r * k + i)] = weight.at(first + r, factor.order[size_t(i)]);
      }
      for (int64_t i = 0; i < k; ++i) {
        const double* factors = factor.upper.data() + i * k;
        const int64_t column = factor.order[static_cast<size_t>(i)];
        for (int64_t r = 0; r < rows; ++r) {
          double* row = values.data() + r * k;
          const float scale = result.scale(first + r, column);
          const float code = round_code(scheme.type, static_cast<float>(row[i]), scale);
          result.codes[static_cast<size_t>((first + r) * k + column)] = code;
          const double error = (row[i] - double{code} * double{scale}) / factors[i];
          for (int64_t j = i + 1; j < k; ++j) row[j] -= error * factors[j];
        }
      }
    }
  });
  return result;
}

}  // namespace edgewise
