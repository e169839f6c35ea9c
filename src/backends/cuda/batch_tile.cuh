// The shape of linear_batch.cu's work: tiles, how blocks share them out, and how a step comes to shared memory.
#pragma once

#include "backends/cuda/async_copy.cuh"
#include "backends/cuda/device_code.cuh"
#include "backends/cuda/kernels.h"
#include "backends/cuda/stream_weights.cuh"

namespace edgewise::cuda {

template <int kValue>
using Number = std::integral_constant<int, kValue>;

inline constexpr int kRowBlocks = 8;    // of 16 rows, in a tile
inline constexpr int kMostShares = 8;   // blocks that have a part of one tile
inline constexpr int kLeastShare = 16;  // chunks of tiles that make a second block a multiprocessor worth its while
inline constexpr int kMostStages = 8;
inline constexpr int kChunkBytes = 128;  // of a column of x

// Shared memory that blocks of a multiprocessor have together, by the architecture that code is compiled for (CUDA C++
// Programming Guide, "Technical Specifications per Compute Capability").
constexpr int batch_shared_bytes(int architecture) {
  if (architecture == 80 || architecture == 87) return 164 << 10;
  return architecture < 90 || architecture >= 120 ? 100 << 10 : 228 << 10;
}

template <Encoding kEncoding, Scaling kScaling, int kColumnsOfTile, int kCopiesOfToken>
struct BatchTile {
  static constexpr Encoding kOf = kEncoding;
  static constexpr Scaling kScaled = kScaling;
  static constexpr bool kBF16 = kEncoding == Encoding::kBF16;
  static constexpr int kColumns = kColumnsOfTile;
  static constexpr int kCopies = kCopiesOfToken;  // columns of a token
  static constexpr int kTokens = kColumns / kCopies;
  using Piece = Chunk<kEncoding>;
  static constexpr int kWords = Piece::kWords;
  // Two warps have the same rows and columns. Of 16-bit chunks each takes half, of smaller ones every other one.
  static constexpr bool kHalves = kWords == 4;
  static constexpr int kDepth = kHalves ? 2 : 4;                                       // operands of a warp in a chunk
  static constexpr int kChunks = kHalves ? 1 : kWords == 1 && kColumns <= 32 ? 4 : 2;  // of a step
  static constexpr int kUnit = kWords == 1 ? 4 : kChunks;                              // chunks that stay together
  static constexpr int kRowTiles = kHalves && kColumns == 128 ? 4 : 2;                 // of a warp
  static constexpr int kColumnWarps = (kColumns == 64 && !kHalves) || kRowTiles == 4 ? 2 : 1;
  static constexpr int kWarps = kRowBlocks / kRowTiles * kColumnWarps * 2;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kColumnTiles = kColumns / 8 / kColumnWarps;  // of a warp
  // What each of the two warps keeps when they have added up: half of the columns, or of the rows where there are
  // only 8.
  static constexpr bool kSplitRows = kColumnTiles == 1;
  static constexpr int kKeptRows = kSplitRows ? kRowTiles / 2 : kRowTiles;
  static constexpr int kKeptColumns = kSplitRows ? 1 : kColumnTiles / 2;
  // A stage of shared memory: weights [row block][chunk][word][lane], x [chunk][column][8 words of 16 bytes], scales
  // and zeros [row block][chunk].
  static constexpr int kScaleBytes = kScaling == Scaling::kRow ? 0 : kScaling == Scaling::kChunks ? 64 : 128;
  static constexpr int kZeroBytes = !Piece::kInteger ? 0 : kScaling == Scaling::kLanes ? 128 : 32;
  static constexpr int kXAt = kRowBlocks * kChunks * kWords * 512;
  static constexpr int kScalesAt = kXAt + kChunks * kColumns * kChunkBytes;
  static constexpr int kZerosAt = kScalesAt + kRowBlocks * kChunks * kScaleBytes;
  static constexpr int kBytes = kZerosAt + kRowBlocks * kChunks * kZeroBytes;
  // Blocks on a multiprocessor, as registers allow.
  static constexpr int kResident = kColumns <= 32 || (kColumns == 64 && kHalves) ? 2 : 1;
  static constexpr int kOtherBytes = 2048;  // shared memory besides the stages
  static constexpr int stages(int architecture) {
    const int fit = (batch_shared_bytes(architecture) / kResident - kOtherBytes) / kBytes;
    return fit < 2 ? 2 : fit < kMostStages ? fit : kMostStages;
  }
  static constexpr bool fits() { return 2 * kBytes + 2048 <= batch_shared_bytes(86); }
};

// Who a warp is.
template <typename T>
struct Place {
  int lane = threadIdx.x % 32;
  int g = lane / 4;
  int t = lane % 4;
  int half = threadIdx.x / 32 % 2;
  int first_row = static_cast<int>(threadIdx.x / 64) / T::kColumnWarps * T::kRowTiles;        // blocks of 16
  int first_column = static_cast<int>(threadIdx.x / 64) % T::kColumnWarps * T::kColumnTiles;  // tiles of 8
};

template <typename T>
using Sums = float[T::kRowTiles][T::kColumnTiles][4];

// How units of a tile's chunks are numbered and shared out: those of a tile are neighbours, tiles of the same rows too.
struct Shares {
  unsigned units;  // of a tile
  unsigned tiles;
  unsigned blocks = gridDim.x;

  __device__ Shares(const BatchCall& call, int chunks_of_unit)
      : units(static_cast<unsigned>((call.matrix.chunks + chunks_of_unit - 1) / chunks_of_unit)),
        tiles(static_cast<unsigned>(call.column_tiles * batch_row_tiles(call.matrix.blocks))) {}
  // Where blocks are not as many as tiles they share units, few enough for 32 bits.
  __device__ unsigned begin(unsigned block) const {
    return blocks == tiles ? block * units : block * (units * tiles) / blocks;
  }
  __device__ unsigned block_of(unsigned unit) const {
    return blocks == tiles ? unit / units : ((unit + 1) * blocks - 1) / (units * tiles);
  }
  __device__ unsigned first_of(unsigned tile) const { return block_of(tile * units); }
  __device__ unsigned last_of(unsigned tile) const { return block_of((tile + 1) * units - 1); }
  // Where a block leaves its sums of a tile: it may have the end of one and the beginning of another.
  __device__ unsigned slot(unsigned block, unsigned tile) const { return 2 * block + (begin(block) < tile * units); }
};

// A place in that order.
struct Position {
  int tile = 0;
  int chunk = 0;
  __device__ Position(int first_tile, int first_chunk) : tile(first_tile), chunk(first_chunk) {}
  __device__ Position(const Shares& shares, unsigned unit, int chunks_of_unit)
      : Position(static_cast<int>(unit / shares.units), static_cast<int>(unit % shares.units) * chunks_of_unit) {}
};

// What a block's tiles are where blocks share out all chunks evenly.
struct EvenOrder {
  int column_tiles;
  int blocks;  // of 16 rows
  int chunk_end;

  __device__ explicit EvenOrder(const BatchCall& call)
      : column_tiles(call.column_tiles), blocks(call.matrix.blocks), chunk_end(call.matrix.chunks) {}
  __device__ int block_begin(int tile) const { return tile / column_tiles * kRowBlocks; }  // of 16 rows
  __device__ int column_tile(int tile) const { return tile % column_tiles; }
};

// Brings weights, scales and zeros of one step after another to shared memory: each warp those of 16 rows, or where
// warps are 16 half of them.
template <typename T>
struct WeightFeed {
  const BatchCall& call;
  const EvenOrder& order;
  int tile;
  int chunk;
  const uint4* weights;  // of this lane, next
  const char* scales;
  const char* zeros;
  int row_block = threadIdx.x / 32 % kRowBlocks;
  int part = threadIdx.x / 32 / kRowBlocks;
  int lane = threadIdx.x % 32;

  __device__ WeightFeed(const BatchCall& c, const EvenOrder& o, const Position& first)
      : call(c), order(o), tile(first.tile), chunk(first.chunk) {
    seek();
  }
  __device__ void seek() {
    const StreamCall& matrix = call.matrix;
    const int block = order.block_begin(tile) + row_block;
    weights = nullptr;
    if (block >= order.blocks) return;
    const StreamPart& part = part_of(matrix, block);
    const int64_t of_part = block - part.first_block;
    const int64_t scales_before = of_part * matrix.scale_columns;
    weights = part.weights + (of_part * matrix.chunks + chunk) * (T::kWords * 32) + lane;
    if (lane < 2 && this->part == 0 && (lane == 0 || part.bias != nullptr))
      prefetch_line((lane == 0 ? part.factors : part.bias) + of_part * kBlockRows);
    scales = static_cast<const char*>(part.scales) + scales_before * (T::kScaled == Scaling::kChunks ? 64 : 32);
    zeros = static_cast<const char*>(part.zeros) + scales_before * 32;
  }
  __device__ void load(uint32_t stage) {
    if (weights != nullptr) {
      constexpr int kParts = T::kWarps / kRowBlocks;
      constexpr int kMine = T::kChunks * T::kWords / kParts;  // words, neighbours
      const uint32_t to = stage + (row_block * T::kChunks * T::kWords * 32 + lane) * 16;
#pragma unroll
      for (int i = 0; i < kMine; ++i) {
        const int word = part * kMine + i;
        if (T::kHalves || chunk + word / T::kWords < order.chunk_end) copy_word(to + word * 512, weights + word * 32);
      }
      if constexpr (T::kScaleBytes > 0) {
        if (part == 0) load_scales<T::kScaleBytes / 16>(stage + T::kScalesAt, scales);
      }
      if constexpr (T::kZeroBytes > 0) {
        if (call.matrix.zeros && part == kParts - 1) load_scales<T::kZeroBytes / 16>(stage + T::kZerosAt, zeros);
      }
      weights += T::kChunks * T::kWords * 32;
    }
    chunk += T::kChunks;
    if (chunk < order.chunk_end) return;
    chunk = 0;
    ++tile;
    seek();
  }
  // Of each chunk `kWordsOfChunk`: 16 rows for each column of scales or zeros, one of them, or for kLanes four.
  template <int kWordsOfChunk>
  __device__ void load_scales(uint32_t to, const char* from) {
    constexpr bool kLanes = T::kScaled == Scaling::kLanes;
    constexpr int kWords = kLanes ? kWordsOfChunk / 4 : kWordsOfChunk;  // of a column
    static_assert(T::kChunks * kWordsOfChunk <= 32);
    const int at = chunk + lane / kWordsOfChunk;
    if (lane >= T::kChunks * kWordsOfChunk || at >= order.chunk_end) return;
    const unsigned index = kLanes ? at * 4 + lane % kWordsOfChunk / kWords : at;
    const int column = T::kScaled == Scaling::kRow
                           ? 0
                           : min(static_cast<int>(index * call.scale_magic >> 20), call.matrix.scale_columns - 1);
    copy_word(to + (row_block * T::kChunks * kWordsOfChunk + lane) * 16, from + (column * kWords + lane % kWords) * 16);
  }
};

// The columns of x for one step after another. Halves of odd columns' chunks change places, so that operand loads meet
// no bank twice.
template <typename T>
struct ActivationFeed {
  static constexpr int kStride = T::kThreads / 8 / T::kChunks;  // columns that are loaded together
  const BatchCall& call;
  const EvenOrder& order;
  int tile;
  int chunk;  // of this thread's words, next
  const uint16_t* x;
  int left;  // columns from this thread's first on
  int word = threadIdx.x % 8;
  int c = threadIdx.x / 8 % T::kChunks;
  int column = threadIdx.x / 8 / T::kChunks;

  __device__ ActivationFeed(const BatchCall& of, const EvenOrder& o, const Position& first)
      : call(of), order(o), tile(first.tile) {
    seek(first.chunk);
  }
  __device__ void seek(int first_chunk) {
    const StreamCall& matrix = call.matrix;
    const int first_column = order.column_tile(tile) * T::kColumns;
    chunk = first_chunk + c;
    left = min(matrix.tokens * call.copies - first_column, T::kColumns) - column;
    x = matrix.x + (int64_t{first_column + column} * matrix.chunks + chunk) * kChunkColumns + word * 8;
  }
  __device__ void load(uint32_t stage) {
    if (chunk < order.chunk_end) {
      const uint32_t to = stage + T::kXAt + (c * T::kColumns + column) * kChunkBytes + (word ^ (column & 1) * 4) * 16;
      const int stride = kStride * static_cast<int>(kChunkColumns) * call.matrix.chunks;
#pragma unroll
      for (int i = 0; i < (T::kColumns + kStride - 1) / kStride; ++i) {
        if (i * kStride < left) copy_word(to + i * kStride * kChunkBytes, x + i * stride);
      }
    }
    x += T::kChunks * kChunkColumns;
    chunk += T::kChunks;
    if (chunk - c < order.chunk_end) return;
    ++tile;
    seek(0);
  }
};

}  // namespace edgewise::cuda
