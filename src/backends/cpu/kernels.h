// The kernels of one instruction set, behind function pointers chosen once when an engine is loaded.
//
// A token's result never depends on how many tokens stand beside it, bit for bit: every kernel sums an output
// in ascending k with one accumulator, whatever its tile, and integer sums are exact. linear_test.cpp holds
// them to it.
#pragma once

#include <cstdint>

#include "backends/cpu/isa.h"
#include "backends/cpu/layout.h"

namespace edgewise::cpu {

// Rows of activations as integers: x is about scale[token][group] * q.
struct QuantizedRows {
  int8_t* q = nullptr;      // [tokens][k_padded], zero in the padding
  int16_t* wide = nullptr;  // [tokens][k_padded]: each quad as k, k+2, k+1, k+3, for 16-bit products
  float* scale = nullptr;   // [tokens][groups]
  float* sum = nullptr;     // [tokens][groups], sums of q
};

// How a Linear kernel walks tokens; the result is the same.
enum class Walk : uint8_t {
  kDirect,   // decodes weights in registers for a few tokens: one linear read of the weights
  kBlocked,  // float encodings: decodes a block of weights into the cache for many tokens
};

struct LinearCall {
  const PackedFormat* format = nullptr;
  const std::byte* weights = nullptr;  // of the matrix
  const float* bias = nullptr;         // [n] or null
  int64_t bias_stride = 0;             // float encodings: from a token's bias to the next one's; `out` itself may be it
  const float* x = nullptr;            // float encodings
  int64_t x_stride = 0;
  QuantizedRows quantized;  // integer encodings
  int tokens = 0;
  float* out = nullptr;
  int64_t out_stride = 0;
  int64_t panel_begin = 0;
  int64_t panel_end = 0;
};

using LinearKernel = void (*)(const LinearCall&) noexcept;
// Integer encodings have one kernel, whatever the walk.
LinearKernel linear_kernel(Isa isa, Encoding encoding, Walk walk);
LinearKernel direct_linear_kernel(Isa isa, Encoding encoding);   // linear_direct.cpp
LinearKernel blocked_linear_kernel(Isa isa, Encoding encoding);  // linear_blocked.cpp
LinearKernel integer_linear_kernel(Isa isa, Encoding encoding);  // linear_int.cpp

// Whether integer kernels of this instruction set read QuantizedRows::wide.
bool wants_wide_rows(Isa isa);

// Row-wise kernels; `count` elements or columns of one row.
struct VectorKernels {
  // Rounds tokens' groups [group_begin, group_end) of one row to int8.
  void (*quantize_row)(const PackedFormat& format, const float* x, int64_t group_begin, int64_t group_end,
                       const QuantizedRows& row) noexcept;
  void (*rms_norm)(const float* x, const float* weight, int64_t count, float epsilon, float* out) noexcept;
  void (*layer_norm)(const float* x, const float* weight, const float* bias, int64_t count, float epsilon,
                     float* out) noexcept;
  void (*add)(const float* a, const float* b, int64_t count, float* out) noexcept;
  void (*mul)(const float* a, const float* b, int64_t count, float* out) noexcept;
  void (*scale)(const float* x, float factor, int64_t count, float* out) noexcept;
  void (*multiply_add)(const float* x, float factor, int64_t count,
                       float* out) noexcept;  // out += factor * x
  void (*silu)(const float* x, int64_t count, float* out) noexcept;
  void (*gelu_erf)(const float* x, int64_t count, float* out) noexcept;
  void (*gelu_tanh)(const float* x, int64_t count, float* out) noexcept;
  void (*relu)(const float* x, int64_t count, float* out) noexcept;
  void (*softcap)(const float* x, float cap, int64_t count, float* out) noexcept;
  void (*swiglu)(const float* gate, const float* up, int64_t count, float* out) noexcept;
  void (*geglu_erf)(const float* gate, const float* up, int64_t count, float* out) noexcept;
  void (*geglu_tanh)(const float* gate, const float* up, int64_t count, float* out) noexcept;
  // One head of head_dim columns.
  void (*rotate_half)(const float* x, const float* cos, const float* sin, int64_t half, float* out) noexcept;
  void (*rotate_pairs)(const float* x, const float* cos, const float* sin, int64_t half, float* out) noexcept;
};
const VectorKernels& vector_kernels(Isa isa);

}  // namespace edgewise::cpu
