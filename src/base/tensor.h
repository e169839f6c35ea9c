// Tensors: a dtype, a shape, and bytes in row-major order. A view borrows, a Tensor shares.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"

namespace edgewise {

using Shape = std::vector<int64_t>;

// Number of elements; throws Error(kBadFile) on a negative dimension or on overflow of int64.
int64_t element_count(const Shape& shape);
// "[4096, 11008]"
std::string shape_text(const Shape& shape);

// Row-major bytes together with whatever keeps them alive: a mapped file or a heap buffer.
// Copying a Tensor shares the bytes. Its bytes are read-only once it has been handed out.
class Tensor {
 public:
  Tensor() = default;
  // Zero-filled, 64-byte aligned.
  static Tensor zeros(DType dtype, Shape shape);
  static Tensor from_floats(DType dtype, Shape shape, std::span<const float> values);
  static Tensor from_int64(Shape shape, std::span<const int64_t> values);
  // Borrows `bytes`, which `owner` keeps alive. Checks that the size fits dtype and shape.
  static Tensor view(DType dtype, Shape shape, std::span<const std::byte> bytes, std::shared_ptr<const void> owner);

  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int64_t dim(size_t axis) const { return shape_.at(axis); }
  size_t rank() const { return shape_.size(); }
  int64_t count() const { return count_; }
  bool empty() const { return data_.empty(); }
  std::span<const std::byte> bytes() const { return data_; }
  const std::shared_ptr<const void>& owner() const { return owner_; }

  // For the one who made it with zeros().
  std::span<std::byte> mutable_bytes();
  // Typed access; throws Error(kInternal) when T's size is not the dtype's.
  template <typename T>
  std::span<const T> as() const {
    check_element_size(sizeof(T));
    return {reinterpret_cast<const T*>(data_.data()), static_cast<size_t>(count_)};
  }
  template <typename T>
  std::span<T> mutable_as() {
    check_element_size(sizeof(T));
    return {reinterpret_cast<T*>(mutable_bytes().data()), static_cast<size_t>(count_)};
  }

  std::vector<float> to_floats() const;
  std::vector<int64_t> to_int64() const;
  Tensor cast(DType dtype) const;
  Tensor reshaped(Shape shape) const;
  // Rows [first, last) of the leading dimension, sharing the bytes.
  Tensor rows(int64_t first, int64_t last) const;

 private:
  void check_element_size(size_t size) const;

  DType dtype_ = DType::kF32;
  Shape shape_;
  int64_t count_ = 0;
  std::span<const std::byte> data_;
  std::shared_ptr<const void> owner_;
  bool mutable_ = false;
};

// An allocation aligned to 64 bytes, freed by the returned owner.
std::shared_ptr<std::byte> allocate_aligned(size_t bytes, size_t alignment = 64);

}  // namespace edgewise
