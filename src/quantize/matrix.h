// The float32 matrices quantization works on, and products of them through a backend.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace edgewise {

struct FloatMatrix {
  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<float> data;  // row-major

  FloatMatrix() = default;
  FloatMatrix(int64_t r, int64_t c) : rows(r), columns(c), data(static_cast<size_t>(r * c), 0.0f) {}
  std::span<float> row(int64_t i) { return std::span(data).subspan(size_t(i * columns), size_t(columns)); }
  std::span<const float> row(int64_t i) const { return std::span(data).subspan(size_t(i * columns), size_t(columns)); }
  float& at(int64_t i, int64_t j) { return data[static_cast<size_t>(i * columns + j)]; }
  float at(int64_t i, int64_t j) const { return data[static_cast<size_t>(i * columns + j)]; }
};

FloatMatrix transposed(const FloatMatrix& a);

// Products with the transpose of one matrix b [n, k], at the speed of the CPU backend's Linear.
class TransposedProduct {
 public:
  // For factors of up to `max_rows` rows.
  TransposedProduct(const FloatMatrix& b, int64_t max_rows);
  ~TransposedProduct();
  TransposedProduct(const TransposedProduct&) = delete;
  TransposedProduct& operator=(const TransposedProduct&) = delete;

  // a [m, k] -> a b^T [m, n].
  FloatMatrix operator()(const FloatMatrix& a) const;

 private:
  struct Loaded;
  int64_t n_;
  std::unique_ptr<Loaded> loaded_;
};

}  // namespace edgewise
