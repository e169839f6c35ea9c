// Packed weights with the kernel that reads them, and activations rounded for integer kernels.
#pragma once

#include <array>
#include <vector>

#include "backends/cpu/kernels.h"
#include "backends/cpu/ops.h"

namespace edgewise::cpu {

// One matrix, or a stack of equal ones (experts).
struct PackedMatrix {
  PackedFormat format;
  Tensor weights;
  Tensor bias;                               // empty or f32 [n]
  std::array<LinearKernel, 2> kernels = {};  // by Walk

  LinearKernel kernel(Walk walk) const { return kernels[static_cast<size_t>(walk)]; }

  const std::byte* data(int64_t index = 0) const {
    return weights.bytes().data() + static_cast<size_t>(index) * format.bytes();
  }
};

// `count` matrices of a packed node: the weight of part i is input first + i * stride; biases, where the
// operator has them, stand three inputs on. `stack` matrices lie behind one another in each.
std::vector<PackedMatrix> load_matrices(const BuildContext& context, const Node& node, size_t first, size_t stride,
                                        bool with_bias, int64_t stack);

// The formats a packed node's attributes describe.
std::vector<PackedFormat> packed_formats(const Node& node, const std::vector<int64_t>& n,
                                         const std::vector<int64_t>& k);

// Room for rows rounded to int8 in one piece of memory.
class QuantizedBuffer {
 public:
  QuantizedBuffer() = default;
  QuantizedBuffer(const PackedFormat& format, int rows, bool wide) : rows_(rows), wide_(wide) {
    row_bytes_ = static_cast<size_t>(format.k_padded);
    groups_ = static_cast<size_t>(format.groups);
  }
  size_t bytes() const;
  // The rows from `row` on.
  QuantizedRows at(std::byte* memory, int64_t row) const;

 private:
  size_t row_bytes_ = 0;
  size_t groups_ = 0;
  int rows_ = 0;
  bool wide_ = false;
};

// This worker's share of rounding `rows` rows of x, cut between groups.
void quantize_share(const VectorKernels& kernels, const PackedFormat& format, const float* x, int64_t x_stride,
                    int rows, const QuantizedBuffer& buffer, std::byte* memory, int worker, int workers) noexcept;

}  // namespace edgewise::cpu
