// Products of many rows by cuBLASLt, where the machine has it. The program is not linked to it: it is looked for at run
// time, and linear_batch.cu does the work where it is missing.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>

namespace edgewise::cuda {

class DenseProduct {
 public:
  static constexpr size_t kScratchBytes = size_t{32} << 20;
  // Of f16 or bf16 matrices. Null where there is no library.
  static std::unique_ptr<DenseProduct> make(bool bf16);
  ~DenseProduct();

  // out [tokens, columns] at `out`, of which the first n are written: alpha x W^T, for W [n, k] and x [tokens, k],
  // k a multiple of 64. `scratch` has kScratchBytes. False when the library cannot.
  bool multiply(cudaStream_t stream, const uint16_t* weights, const uint16_t* x, int n, int tokens, int k, int columns,
                float alpha, float* out, std::byte* scratch) const noexcept;

 private:
  struct Plan;
  explicit DenseProduct(std::unique_ptr<Plan> plan);
  std::unique_ptr<Plan> plan_;
};

}  // namespace edgewise::cuda
