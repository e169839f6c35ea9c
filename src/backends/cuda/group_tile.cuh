// The shape of linear_group.cu's work: how warpgroups share out a tile, and how its weights and activations come to
// shared memory.
#pragma once

#include "backends/cuda/barrier.cuh"
#include "backends/cuda/device_code.cuh"
#include "backends/cuda/kernels.h"
#include "backends/cuda/stream_weights.cuh"

namespace edgewise::cuda {

inline constexpr int kGroupBlocks = 4;  // of 16 rows, that a warpgroup multiplies at once: one a warp
inline constexpr int kFeedWarps = 4;
inline constexpr int kMostGroupStages = 16;
inline constexpr int kStageAlignment = 1024;  // of x, whose words change places by that

// Encoding and scaling of the matrix; columns of x, of which a token has one or two.
template <Encoding kEncoding, Scaling kScaling, int kColumnsOfX, int kCopiesOfToken>
struct GroupTile {
  static constexpr Encoding kOf = kEncoding;
  static constexpr Scaling kScaled = kScaling;
  static constexpr bool kBF16 = kEncoding == Encoding::kBF16;
  static constexpr bool kPartly = kScaling == Scaling::kChunks;  // a chunk's sums have a scale
  static constexpr int kColumns = kColumnsOfX;
  static constexpr int kCopies = kCopiesOfToken;
  static constexpr int kTokens = kColumns / kCopies;
  using Piece = Chunk<kEncoding>;
  static constexpr int kWords = Piece::kWords;
  static constexpr int kChunks = 4 / kWords;  // of a stage
  // A stage: x [chunk][column][64], then for each 16 rows weights [chunk][word][lane], scales and zeros [column].
  static constexpr int kXBytes = kChunks * kColumns * 128;
  static constexpr int kWeightBytes = kChunks * kWords * 512;
  static constexpr int kScaleColumns = kScaling == Scaling::kRow ? 1 : kChunks * (kScaling == Scaling::kLanes ? 4 : 1);
  static constexpr int kScaleBytes = kScaling == Scaling::kRow ? 0 : kScaling == Scaling::kLanes ? 32 : 64;  // a column
  static constexpr int kZeroBytes = Piece::kInteger ? 32 : 0;
  static constexpr int kScalesAt = kWeightBytes;
  static constexpr int kZerosAt = kScalesAt + kScaleColumns * kScaleBytes;
  static constexpr int kBlockBytes = kZerosAt + kScaleColumns * kZeroBytes;

  // As many warpgroups multiply as their sums leave registers for. What they and those that feed them do not have is
  // for a block of prepare_columns(), which the next product waits for.
  static constexpr int kGroups = kColumns <= 32 ? 5 : 4;
  static constexpr bool kEarly = kColumns < 128;  // a chunk comes from shared memory while the one before is multiplied
  static constexpr int kThreads = kGroups * 128;
  static constexpr int kAllThreads = kThreads + kFeedWarps * 32;
  static constexpr bool kByWarps = by_warps(kColumns);
  // By warps all threads have 72 registers, of which the compiler learns by a bound of threads. Otherwise the block
  // begins with 80 or 96 for each, and shares them out like this.
  static constexpr int kBoundThreads = kByWarps ? 896 : kAllThreads;
  static constexpr int kGroupRegisters = kColumns == 32 ? 88 : kColumns == 64 ? 104 : 112;
  static constexpr int kFeedRegisters = kColumns == 32 ? 40 : kColumns == 64 ? 64 : 32;

  static constexpr int stage_bytes(int height) {
    return (kXBytes + height * kBlockBytes + kStageAlignment - 1) / kStageAlignment * kStageAlignment;
  }
};

struct GroupCall {
  BatchCall batch;
  int tiles = 1;   // of each cluster
  int height = 0;  // of a tile at most, in blocks of 16 rows
  int stages = 0;
  int stage_bytes = 0;
  int inbox_shift = 0;  // a block of threads finishes 16 << inbox_shift rows of a tile
};

// The rows and columns of a block: clusters share out the rows, the blocks of each the columns of x.
struct GroupOrder {
  int rank;
  int first;   // block of 16 rows
  int blocks;  // of 16 rows
  int tiles;
  int chunk_begin;
  int chunk_end;

  __device__ explicit GroupOrder(const GroupCall& call) : tiles(call.tiles) {
    const int ranks = call.batch.group.ranks;
    const StreamCall& matrix = call.batch.matrix;
    const int cluster = static_cast<int>(blockIdx.x) / ranks;
    const int clusters = static_cast<int>(gridDim.x) / ranks;
    rank = static_cast<int>(blockIdx.x) % ranks;
    first = matrix.blocks * cluster / clusters;
    blocks = matrix.blocks * (cluster + 1) / clusters - first;
    chunk_begin = matrix.chunks * rank / ranks;
    chunk_end = matrix.chunks * (rank + 1) / ranks;
  }
  // Tiles are of almost equal height.
  __device__ int block_begin(int tile) const { return first + blocks * tile / tiles; }
  __device__ int height(int tile) const { return block_begin(tile + 1) - block_begin(tile); }
};

// Columns of scales and zeros that some chunks have.
template <typename T>
struct ScaleColumns {
  unsigned magic;
  int last;
  __device__ explicit ScaleColumns(const BatchCall& call)
      : magic(call.scale_magic), last(call.matrix.scale_columns - 1) {}
  // Of a chunk, or of its 16 columns number `part`.
  __device__ int of(int chunk, int part) const {
    if constexpr (T::kScaled == Scaling::kRow) return 0;
    const unsigned index = T::kScaled == Scaling::kLanes ? chunk * 4 + part : chunk;
    return min(static_cast<int>(index * magic >> 20), last);
  }
};

struct GroupBarriers {
  uint64_t full[kMostGroupStages];
  uint64_t empty[kMostGroupStages];
  uint64_t inbox;
};

// The warps that keep the stages full: each has some of a tile's blocks of 16 rows, one a lane, since a warp's lanes
// issue their copies one after another. Whoever waits for a stage waits for these warps.
template <typename T>
class GroupFeed {
 public:
  __device__ GroupFeed(const GroupCall& call, const GroupOrder& order, uint32_t stages, const GroupBarriers& barriers)
      : call_(call),
        order_(order),
        columns_(call.batch),
        stages_(stages),
        full_(shared_address(barriers.full)),
        empty_(shared_address(barriers.empty)),
        warp_(static_cast<int>((threadIdx.x - T::kThreads) / 32)),
        row_block_(static_cast<int>(threadIdx.x % 32) * kFeedWarps + warp_),
        chunk_(order.chunk_begin),
        x_chunk_(order.chunk_begin) {
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy_));
    x_ = call.batch.matrix.x + int64_t{x_chunk_} * (T::kColumns * 64);
    begin_tile();
  }

  // By whole warps.
  __device__ void run() {
    const int count = order_.tiles * ((order_.chunk_end - order_.chunk_begin + T::kChunks - 1) / T::kChunks);
    const int early = min(call_.stages, count);
    RingPlace place;
    for (int i = 0; i < early; ++i) bring_weights(i);  // before x is there
    wait_for_inputs();
    for (int i = 0; i < early; ++i) bring_x(i);
#pragma unroll 1
    for (int i = early; i < count; ++i) {
      wait_for(empty_ + place.slot * 8, place.parity);
      bring_weights(place.slot);
      bring_x(place.slot);
      place.advance(call_.stages);
    }
  }

 private:
  __device__ void copy(uint32_t to, const void* from, int bytes, uint32_t barrier) const {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
            "r"(to),
        "l"(from), "r"(bytes), "r"(barrier), "l"(policy_)
        : "memory");
  }
  __device__ int chunks_from(int chunk) const { return min(T::kChunks, order_.chunk_end - chunk); }

  __device__ void begin_tile() {
    const StreamCall& matrix = call_.batch.matrix;
    height_ = order_.height(tile_);
    if (row_block_ >= height_) return;
    const int block = order_.block_begin(tile_) + row_block_;
    const StreamPart& part = part_of(matrix, block);
    const int64_t of_part = block - part.first_block;
    weights_ = part.weights + (of_part * matrix.chunks + chunk_) * (T::kWords * 32);
    scales_ = static_cast<const char*>(part.scales) + of_part * matrix.scale_columns * T::kScaleBytes;
    zeros_ = static_cast<const char*>(part.zeros) + of_part * matrix.scale_columns * T::kZeroBytes;
  }
  __device__ void bring_weights(int slot) {
    const bool zeros = call_.batch.matrix.zeros;
    const int chunks = chunks_from(chunk_);
    const int first = columns_.of(chunk_, 0);
    const int columns = columns_.of(chunk_ + chunks - 1, 3) - first + 1;
    const int weight_bytes = chunks * T::kWords * 512;
    const int scale_bytes = columns * T::kScaleBytes;
    const int zero_bytes = zeros ? columns * T::kZeroBytes : 0;
    const uint32_t full = full_ + slot * 8;
    if (threadIdx.x == T::kThreads) {
      const int bytes = height_ * (weight_bytes + scale_bytes + zero_bytes) + chunks * T::kColumns * 128;
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(full), "r"(bytes) : "memory");
    }
    if (row_block_ < height_) {
      const uint32_t to = stages_ + slot * call_.stage_bytes + T::kXBytes + row_block_ * T::kBlockBytes;
      copy(to, weights_, weight_bytes, full);
      if constexpr (T::kScaleBytes > 0) copy(to + T::kScalesAt, scales_ + first * T::kScaleBytes, scale_bytes, full);
      if constexpr (T::kZeroBytes > 0) {
        if (zeros) copy(to + T::kZerosAt, zeros_ + first * T::kZeroBytes, zero_bytes, full);
      }
    }
    weights_ += T::kChunks * T::kWords * 32;
    chunk_ += T::kChunks;
    if (chunk_ < order_.chunk_end) return;
    chunk_ = order_.chunk_begin;
    if (++tile_ < order_.tiles) begin_tile();
  }
  __device__ void bring_x(int slot) {
    const int chunks = chunks_from(x_chunk_);
    if (threadIdx.x == T::kAllThreads - 1)
      asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                       stages_ + slot * call_.stage_bytes),
                   "l"(x_), "r"(chunks * T::kColumns * 128), "r"(full_ + slot * 8)
                   : "memory");
    x_ += T::kChunks * T::kColumns * 64;
    x_chunk_ += T::kChunks;
    if (x_chunk_ < order_.chunk_end) return;
    x_ -= (x_chunk_ - order_.chunk_begin) * (T::kColumns * 64);
    x_chunk_ = order_.chunk_begin;
  }

  const GroupCall& call_;
  const GroupOrder& order_;
  ScaleColumns<T> columns_;
  uint32_t stages_;
  uint32_t full_;
  uint32_t empty_;
  uint64_t policy_;
  int warp_;
  int row_block_;  // of the tile, that this lane brings
  int tile_ = 0;
  int height_ = 0;
  int chunk_;
  const uint4* weights_ = nullptr;  // of this lane's rows, next
  const char* scales_ = nullptr;
  const char* zeros_ = nullptr;
  int x_chunk_;
  const uint16_t* x_;  // next
};

}  // namespace edgewise::cuda
