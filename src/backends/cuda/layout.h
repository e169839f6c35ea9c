// How weights lie in the GPU's memory: in the order in which tensor cores take them, so that a warp's loads are whole
// lines and reach registers as operands.
//
// A block is 16 rows of the matrix, a chunk 64 columns of a block. The chunk holds four tiles of 16 x 16, each the
// first operand of mma.m16n8k16 (PTX ISA, "Matrix fragments for mma.m16n8k16"): lane (g, t) = (lane / 4, lane % 4) owns
// rows g and g + 8 and, of tile i, the columns 16 t + 4 i ... + 3 of the chunk. So 16 neighbouring columns of the other
// operand serve a lane for all four tiles.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "backends/cuda/encoding.h"
#include "base/tensor.h"
#include "graph/graph.h"

namespace edgewise {
class ThreadPool;
}

namespace edgewise::cuda {

// Kernels put the bits of 4-bit floats into halves where they stand, which divides by a power of two. Scales of lanes
// take part of it back, so that products stay normal numbers.
inline constexpr float kF4Factor = 16384;

inline bool is_integer(Encoding encoding) { return encoding == Encoding::kInt8 || encoding == Encoding::kInt4; }

struct WeightFormat {
  Encoding encoding = Encoding::kF32;
  Scaling scaling = Scaling::kRow;
  bool zeros = false;         // zero points by block; else integers have theirs in the middle
  bool token_scales = false;  // activations are rounded to int8 first
  int64_t n = 0;
  int64_t k = 0;
  int64_t block = 0;  // columns of a scale

  int64_t row_blocks() const { return (n + kBlockRows - 1) / kBlockRows; }
  int64_t chunks() const { return (k + kChunkColumns - 1) / kChunkColumns; }
  int64_t scale_columns() const { return (k + block - 1) / block; }
  // What makes the division of a chunk's number by the chunks of a scale, or of 16 columns' by theirs, a product: see
  // DecodeCall.
  uint32_t scale_magic() const;
  int64_t chunk_bytes() const;
  size_t weight_bytes() const;

  // Behind the weights: what multiplies a row in the end, f32 [row_blocks * 16]; the scales of blocks, [row_blocks]
  // [scale_columns][8][2] for rows g and g + 8, f32 for kChunks and f16 for kLanes; zero points likewise, f16.
  size_t factors_offset() const { return aligned(weight_bytes()); }
  size_t scales_offset() const {
    return factors_offset() + aligned(static_cast<size_t>(row_blocks() * kBlockRows) * 4);
  }
  size_t zeros_offset() const { return scales_offset() + aligned(scale_bytes()); }
  size_t bytes() const { return zeros_offset() + aligned(zeros ? block_values() * 2 : 0); }

  // A number that brings a packed matrix into the range of halves when it is divided by it: a power of two, or what
  // multiplies all rows of 16-bit weights alike.
  float half_unit(std::span<const std::byte> packed) const;

  // What stands in an engine, with n, k and block beside it: "t16-int4:chunks:zeros".
  std::string text() const;
  // Throws Error(kBadFile).
  static WeightFormat parse(const std::string& text, int64_t n, int64_t k, int64_t block);

 private:
  static size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }
  size_t block_values() const { return static_cast<size_t>(row_blocks() * scale_columns() * kBlockRows); }
  size_t scale_bytes() const {
    return scaling == Scaling::kRow ? 0 : block_values() * (scaling == Scaling::kChunks ? 4 : 2);
  }
};

// A matrix as it stands in a graph; of a stack, number `index`.
struct SourceMatrix {
  Tensor weight;
  Tensor scale;  // or empty
  Tensor zero;   // or empty
  bool transposed = false;
  int64_t block = 0;
  int64_t index = 0;
};

// Fills `out`, format.bytes() of zeros. `global_scale` multiplies all weights.
void pack_matrix(const WeightFormat& format, const SourceMatrix& source, double global_scale, ThreadPool& pool,
                 std::span<std::byte> out);
// The formats of a node's weights, as pack_node() makes or has made them.
std::vector<WeightFormat> formats_of(const Graph& graph, const Node& node);
// Replaces the weights of a kLinear by packed ones.
void pack_node(Graph& graph, NodeId node);

}  // namespace edgewise::cuda
