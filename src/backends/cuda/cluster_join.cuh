// How the blocks of a cluster add up what they have of a tile: each finishes some of its rows and has an inbox in
// shared memory, to which all send their sums of those (PTX ISA, "st.async"; a barrier in the inbox counts bytes, so
// nobody needs a fence).
#pragma once

#include "backends/cuda/barrier.cuh"
#include "backends/cuda/batch_join.cuh"

namespace edgewise::cuda {

// The rows and columns of a block where clusters share out the rows, and the blocks of each the columns of x.
struct ClusterOrder {
  int ranks;  // blocks of the cluster
  int rank;
  int first;   // block of 16 rows
  int blocks;  // of 16 rows
  int tiles;
  int chunk_begin;
  int chunk_end;

  __device__ explicit ClusterOrder(const BatchCall& call) : ranks(call.ranks) {
    const int cluster = static_cast<int>(blockIdx.x) / ranks;
    const int clusters = static_cast<int>(gridDim.x) / ranks;
    rank = static_cast<int>(blockIdx.x) % ranks;
    first = call.matrix.blocks * cluster / clusters;
    blocks = call.matrix.blocks * (cluster + 1) / clusters - first;
    tiles = (blocks + kRowBlocks - 1) / kRowBlocks;
    chunk_begin = call.matrix.chunks * rank / ranks;
    chunk_end = call.matrix.chunks * (rank + 1) / ranks;
  }
  // Tiles are of almost equal height; behind the last one there are no rows.
  __device__ int block_begin(int tile) const { return first + blocks * tile / tiles; }
  __device__ int block_end(int tile) const { return min(block_begin(tile + 1), first + blocks); }
  __device__ int column_tile(int /*tile*/) const { return 0; }
};

// Barriers of a cluster here order nothing but the use of inboxes: what is read there has been used before.
__device__ inline void arrive_cluster() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
#endif
}
__device__ inline void wait_cluster() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait;" ::: "memory");
#endif
}

// Sums of a tile's rows that this block finishes: [sender][token][row].
template <typename T>
class Inbox {
 public:
  // Others may send as soon as a wait_cluster() has followed.
  __device__ Inbox(char* memory, uint64_t* barrier, int ranks)
      : memory_(memory), barrier_(static_cast<uint32_t>(__cvta_generic_to_shared(barrier))), shift_(2 - ranks / 4) {
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier_) : "memory");
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    arrive_cluster();
#endif
  }
  // The blocks of 16 rows of a tile that a block finishes are 1 << shift().
  __device__ int shift() const { return shift_; }
  // To the one who finishes row `row` of the tile.
  __device__ void send(int sender, int token, int row, float sum) const {
#if __CUDA_ARCH__ >= 900
    const int owner = row >> (shift_ + 4);
    const int at = place_of(sender, token, row & ((16 << shift_) - 1));
    const auto here = static_cast<uint32_t>(__cvta_generic_to_shared(memory_)) + at * 4;
    uint32_t there, barrier;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(owner));
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(barrier) : "r"(barrier_), "r"(owner));
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(there),
                 "r"(__float_as_uint(sum)), "r"(barrier)
                 : "memory");
#endif
  }
  // Until so many bytes are there.
  __device__ void wait(int bytes) {
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0)
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier_), "r"(bytes) : "memory");
    wait_for(barrier_, turn_);
    turn_ ^= 1;
#endif
  }
  // Of this block's row number `row`.
  __device__ float read(int sender, int token, int row) const {
    return reinterpret_cast<const float*>(memory_)[place_of(sender, token, row)];
  }

 private:
  // So that a warp's sums of 4 tokens and 8 rows meet no bank twice, rows change places.
  __device__ int place_of(int sender, int token, int row) const {
    const int slot = T::kCopies == 2 ? token : token / 2 + token % 2 * (T::kTokens / 2);
    return (((sender * T::kTokens + slot) << shift_) * 16 + row) ^ (slot & 2) * 4;
  }

  char* memory_;
  uint32_t barrier_;
  int shift_;
  uint32_t turn_ = 0;
};

// A row of a token, and what becomes of its sum.
struct Result {
  float* to = nullptr;  // null: nothing
  float factor = 0;
  float scale = 0;
  float bias = 0;
  float residual = 0;

  // Row `row` of a tile that begins with block `block` of 16 rows.
  __device__ void find(const BatchCall& call, int block, int row, int token) {
    const StreamCall& matrix = call.matrix;
    const int of_row = block + row / 16;
    const StreamPart& part = part_of(matrix, of_row);
    const int n = (of_row - part.first_block) * static_cast<int>(kBlockRows) + row % 16;
    to = nullptr;
    if (n >= part.n) return;
    const int64_t at = int64_t{token} * part.n + n;
    to = part.out + at;
    factor = part.factors[n];
    scale = matrix.x_scale[token];
    bias = part.bias != nullptr ? part.bias[n] : 0;
    residual = call.residual != nullptr ? call.residual[at] : 0;
  }
  __device__ void store(float sum) const { *to = sum * (factor * scale) + bias + residual; }
};

// Sends this block's sums of a tile to those who finish them.
template <typename T>
__device__ inline void send_tile(const BatchCall& call, const ClusterOrder& order, const Inbox<T>& inbox, int tile,
                                 char* memory, const Place<T>& place, Sums<T>& sums) {
  join_halves<T>(memory, place, sums);
  const int blocks = order.block_end(tile) - order.block_begin(tile);
  wait_cluster();
  for_kept<T>([&](int r, int i, int j) {
    const int block = place.first_row + (T::kSplitRows ? place.half * T::kKeptRows : 0) + r;
    const int column = (place.first_column + (T::kSplitRows ? 0 : place.half * T::kKeptColumns) + i) * 8 + 2 * place.t;
    const int token = (column + j % 2) / T::kCopies;
    if (block < blocks && token < call.matrix.tokens)
      inbox.send(order.rank, token, block * 16 + place.g + j / 2 * 8, sums[r][i][j]);
  });
}

// Finishes this block's rows of a tile, once all have sent theirs.
template <typename T>
__device__ inline void receive_tile(const BatchCall& call, const ClusterOrder& order, Inbox<T>& inbox, int tile) {
  const int tokens = call.matrix.tokens;
  const int first_block = order.block_begin(tile);
  const int first_row = order.rank << (inbox.shift() + 4);
  const int own_rows = 16 << inbox.shift();
  const int rows = min((order.block_end(tile) - first_block) * 16 - first_row, own_rows);  // may be negative
  constexpr int kTogether = T::kTokens <= 8 ? 2 : 1;
  const auto thread = static_cast<int>(threadIdx.x);
#pragma unroll 1
  for (int begin = 0; begin < tokens * own_rows; begin += kTogether * T::kThreads) {
    Result results[kTogether];
    const auto row_of = [&](int i) { return (begin + thread + i * T::kThreads) & (own_rows - 1); };
    const auto token_of = [&](int i) { return (begin + thread + i * T::kThreads) >> (inbox.shift() + 4); };
    // What multiplies sums and is added to them is fetched before the sums are there.
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      if (token_of(i) < tokens && row_of(i) < rows)
        results[i].find(call, first_block, first_row + row_of(i), token_of(i));
    }
    if (begin == 0) inbox.wait(max(rows, 0) * tokens * order.ranks * 4);
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      if (results[i].to == nullptr) continue;
      float sum = 0;
#pragma unroll 4
      for (int sender = 0; sender < order.ranks; ++sender) sum += inbox.read(sender, token_of(i), row_of(i));
      results[i].store(sum);
    }
  }
  if (tile + 1 < order.tiles) arrive_cluster();
}

}  // namespace edgewise::cuda
