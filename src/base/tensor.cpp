#include "base/tensor.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#include "base/error.h"

namespace edgewise {

int64_t element_count(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t dim : shape) {
    if (dim < 0 || __builtin_mul_overflow(count, dim, &count) || count > (int64_t{1} << 56)) {
      bad_file("tensor shape {} is negative or too large", shape_text(shape));
    }
  }
  return count;
}

std::string shape_text(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

std::shared_ptr<std::byte> allocate_aligned(size_t bytes, size_t alignment) {
  const size_t rounded = (std::max<size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, rounded);
  if (memory == nullptr) throw std::bad_alloc();
  return {static_cast<std::byte*>(memory), [](std::byte* p) { std::free(p); }};
}

Tensor Tensor::zeros(DType dtype, Shape shape) {
  Tensor tensor;
  tensor.dtype_ = dtype;
  tensor.count_ = element_count(shape);
  tensor.shape_ = std::move(shape);
  const size_t size = byte_size(dtype, static_cast<size_t>(tensor.count_));
  auto memory = allocate_aligned(size);
  std::memset(memory.get(), 0, size);
  tensor.data_ = {memory.get(), size};
  tensor.owner_ = std::move(memory);
  tensor.mutable_ = true;
  return tensor;
}

Tensor Tensor::from_floats(DType dtype, Shape shape, std::span<const float> values) {
  Tensor tensor = zeros(dtype, std::move(shape));
  check_internal(static_cast<size_t>(tensor.count()) == values.size(), "from_floats: count and shape differ");
  from_float(dtype, values, tensor.mutable_bytes());
  return tensor;
}

Tensor Tensor::from_int64(Shape shape, std::span<const int64_t> values) {
  Tensor tensor = zeros(DType::kI64, std::move(shape));
  check_internal(static_cast<size_t>(tensor.count()) == values.size(), "from_int64: count and shape differ");
  std::ranges::copy(std::as_bytes(values), tensor.mutable_bytes().begin());
  return tensor;
}

Tensor Tensor::view(DType dtype, Shape shape, std::span<const std::byte> bytes, std::shared_ptr<const void> owner) {
  Tensor tensor;
  tensor.dtype_ = dtype;
  tensor.count_ = element_count(shape);
  tensor.shape_ = std::move(shape);
  const size_t size = byte_size(dtype, static_cast<size_t>(tensor.count_));
  if (bytes.size() != size) {
    bad_file("a {} tensor of shape {} takes {} bytes, found {}", dtype_name(dtype), shape_text(tensor.shape_), size,
             bytes.size());
  }
  tensor.data_ = bytes;
  tensor.owner_ = std::move(owner);
  return tensor;
}

std::span<std::byte> Tensor::mutable_bytes() {
  check_internal(mutable_, "write to a tensor that was handed out read-only");
  return {const_cast<std::byte*>(data_.data()), data_.size()};
}

void Tensor::check_element_size(size_t size) const {
  check_internal(static_cast<int>(size * 8) == bit_width(dtype_), "tensor read with the wrong element size");
}

std::vector<float> Tensor::to_floats() const {
  std::vector<float> values(static_cast<size_t>(count_));
  to_float(dtype_, data_, 0, values);
  return values;
}

std::vector<int64_t> Tensor::to_int64() const {
  std::vector<int64_t> values(static_cast<size_t>(count_));
  if (dtype_ == DType::kI64) {
    std::ranges::copy(data_, std::as_writable_bytes(std::span(values)).begin());
  } else if (dtype_ == DType::kI32) {
    std::vector<int32_t> ints(values.size());  // in a file they lie anywhere
    std::ranges::copy(data_, std::as_writable_bytes(std::span(ints)).begin());
    std::ranges::copy(ints, values.begin());
  } else {
    const auto floats = to_floats();
    std::transform(floats.begin(), floats.end(), values.begin(), [](float v) { return int64_t(v); });
  }
  return values;
}

Tensor Tensor::cast(DType dtype) const {
  if (dtype == dtype_) return *this;
  Tensor result = zeros(dtype, shape_);
  // In slices, so that the float32 copy of a large tensor never exists whole.
  constexpr size_t kSlice = 1 << 16;
  std::vector<float> slice(std::min<size_t>(kSlice, static_cast<size_t>(count_)));
  for (size_t first = 0; first < static_cast<size_t>(count_); first += kSlice) {
    const size_t n = std::min<size_t>(kSlice, static_cast<size_t>(count_) - first);
    to_float(dtype_, data_, first, std::span(slice).first(n));
    from_float(dtype, std::span(slice).first(n), result.mutable_bytes().subspan(byte_size(dtype, first)));
  }
  return result;
}

Tensor Tensor::reshaped(Shape shape) const {
  Tensor result = *this;
  check_internal(element_count(shape) == count_, "reshape changes the number of elements");
  result.shape_ = std::move(shape);
  return result;
}

Tensor Tensor::rows(int64_t first, int64_t last) const {
  check_internal(rank() > 0 && 0 <= first && first <= last && last <= shape_[0], "row range out of bounds");
  Shape shape = shape_;
  shape[0] = last - first;
  const int64_t row = shape_[0] == 0 ? 0 : count_ / shape_[0];
  check_internal(first * row * bit_width(dtype_) % 8 == 0, "row slice of a packed tensor splits a byte");
  const size_t begin = byte_size(dtype_, static_cast<size_t>(first * row));
  const size_t size = byte_size(dtype_, static_cast<size_t>((last - first) * row));
  return view(dtype_, std::move(shape), data_.subspan(begin, size), owner_);
}

}  // namespace edgewise
