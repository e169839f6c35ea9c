// The weight layout "cpu-p16", read by every kernel of this backend on every instruction set.
//
// A matrix [n, k] is cut into panels of 16 rows (outputs); n is padded with zero rows inside the last panel.
// Panels follow one another, so that a thread's share of a matrix is one linear read. A panel holds
//   scales  [blocks][16]  f32, f16, bf16 or f8e4m3; none for unquantized weights
//   zeros   [blocks][16]  u8, only when the source has zero points
//   weights               k padded as below with zero weights
// each padded to 64 bytes; the padding is zero (activations are zero there, so integer codes may be too).
// Weights by encoding:
//   f32, f16, bf16, f8e4m3   [k][16]
//   f4e2m1                   [k/8][16] u32: nibble i of a word, lowest first, is element 8j+i of its row
//   int8                     [k/4][16][4] u8: the value plus 128 (or as it is for u8 sources)
//   int4                     [k/8][16][4] u8: low nibble of byte i is element 8j+i, high nibble 8j+4+i;
//   unsigned
// The value of a weight is (q - zero) * scale * global_scale.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/tensor.h"

namespace edgewise::cpu {

inline constexpr int kPanel = 16;

enum class Encoding : uint8_t { kF32, kF16, kBF16, kF8E4M3, kF4E2M1, kInt8, kInt4 };
enum class ScaleKind : uint8_t { kNone, kF32, kF16, kBF16, kF8E4M3 };

std::string_view encoding_name(Encoding encoding);
inline bool is_integer(Encoding encoding) { return encoding == Encoding::kInt8 || encoding == Encoding::kInt4; }

struct PackedFormat {
  Encoding encoding = Encoding::kF32;
  ScaleKind scale = ScaleKind::kNone;
  bool has_zeros = false;
  bool token_scales = false;  // integer encodings: activations have one scale a token, not one a group
  int fixed_zero = 0;         // integer encodings without zeros: what stands for zero
  int64_t k = 0;
  int64_t n = 0;
  int64_t block = 0;  // elements of k a scale covers; at least k when there is one a row
  float global_scale = 1;

  // Derived by finish().
  int64_t k_padded = 0;
  int64_t blocks = 0;
  int64_t group = 0;  // integer encodings: elements of k summed as integers; divides block
  int64_t groups = 0;
  int64_t panels = 0;
  size_t zeros_offset = 0;
  size_t weights_offset = 0;
  size_t panel_bytes = 0;

  void finish();
  size_t bytes() const { return panel_bytes * static_cast<size_t>(panels); }
  // The attribute of a packed node, such as "p16-int4:f16:zeros"; parse() reads it back.
  std::string text() const;
  static PackedFormat parse(const std::string& text, int64_t k, int64_t n, int64_t block, double global_scale);
};

// A matrix as a checkpoint or an ONNX file stores it.
struct SourceMatrix {
  Tensor weight;  // [n, k] when transposed, else [k, n]; or a stack of them
  Tensor scale;   // empty when there is none
  Tensor zero;
  bool transposed = true;
  int64_t block = 0;  // elements of k a scale covers
  int64_t index = 0;  // of the stack
};

// What the packed form of a source looks like; needs no data.
struct SourceTypes {
  DType weight = DType::kF32;
  DType scale = DType::kF32;
  DType zero = DType::kU8;
  bool has_scale = false;
  bool has_zero = false;
  bool token_scales = false;
  int64_t k = 0, n = 0, block = 0;
  double global_scale = 1;
};
PackedFormat choose_format(const SourceTypes& source);

// Writes format.bytes() bytes.
void pack_matrix(const PackedFormat& format, const SourceMatrix& source, std::span<std::byte> out);

}  // namespace edgewise::cpu
