// What becomes of linear_group.cu's sums: results, at once where a warp has all columns of its rows. Otherwise each
// block of a cluster finishes some rows of the tile and has an inbox in shared memory, to which all send their sums of
// those (PTX ISA, "st.async"; a barrier counts the bytes, so nobody needs a fence).
#pragma once

#include "backends/cuda/group_multiply.cuh"

namespace edgewise::cuda {

// A block of 16 rows, as its matrix has it.
struct RowsOfPart {
  const StreamPart& part;
  int first;  // row of the part

  __device__ RowsOfPart(const StreamCall& matrix, int block)
      : part(part_of(matrix, block)), first((block - part.first_block) * static_cast<int>(kBlockRows)) {}
};

// A row of a token, and what becomes of its sum.
struct GroupResult {
  float* to = nullptr;  // null: nothing
  float factor = 0;
  float scale = 0;
  float bias = 0;
  float residual = 0;

  __device__ void find(const BatchCall& call, const RowsOfPart& rows, int row, int token) {
    const StreamPart& part = rows.part;
    const int n = rows.first + row;
    to = nullptr;
    if (n >= part.n) return;
    const int64_t at = int64_t{token} * part.n + n;
    to = part.out + at;
    factor = part.factors[n];
    scale = call.matrix.x_scale[token];
    bias = part.bias != nullptr ? part.bias[n] : 0;
    residual = call.residual != nullptr ? call.residual[at] : 0;
  }
  __device__ void store(float sum) const { *to = sum * (factor * scale) + bias + residual; }
};

// Visits a thread's sums: visit(token, row of the warp's 16, sum).
template <typename T, typename Visit>
__device__ inline void for_sums(const BatchCall& call, const ProductOf<T>& product, Visit visit) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int tile = 0; tile < T::kColumns / 8; ++tile) {
#pragma unroll
    for (int j = 0; j < 2; j += T::kCopies) {
      const int token = (tile * 8 + lane % 4 * 2 + j) / T::kCopies;
      if (token >= call.matrix.tokens) continue;
#pragma unroll
      for (int lower = 0; lower < 2; ++lower) visit(token, lane / 4 + lower * 8, product.sum(tile, lower, j));
    }
  }
}

// Whole sums become results. What is added to some is fetched before any is stored, since stores hold loads back.
template <typename T>
__device__ inline void write_rows(const BatchCall& call, int block, const ProductOf<T>& product) {
  const RowsOfPart rows(call.matrix, block);
  constexpr int kResults = T::kTokens / 2;
  constexpr int kTogether = kResults < 4 ? kResults : 4;
  GroupResult results[kTogether];
  float sums[kTogether];
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int first = 0; first < kResults; first += kTogether) {
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int at = (first + i) / 2;  // of a token's two rows
      const int tile = T::kCopies == 2 ? at : at / 2;
      const int j = T::kCopies == 2 ? 0 : at % 2;
      const int token = (tile * 8 + lane % 4 * 2 + j) / T::kCopies;
      results[i].to = nullptr;
      if (token < call.matrix.tokens) results[i].find(call, rows, lane / 4 + i % 2 * 8, token);
      sums[i] = product.sum(tile, i % 2, j);
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      if (results[i].to != nullptr) results[i].store(sums[i]);
    }
  }
}

// Sums of a tile's rows that this block finishes: [sender][token][row].
template <typename T>
class GroupInbox {
 public:
  // By all threads of the cluster. Others may send as soon as a wait_for_others() has followed. `alone`: there is one
  // block, no cluster.
  __device__ GroupInbox(char* memory, const uint64_t* barrier, int shift, bool alone)
      : memory_(memory), barrier_(shared_address(barrier)), shift_(shift), alone_(alone) {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
#endif
  }
  __device__ void wait_for_others() const {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait;" ::: "memory");
#endif
  }
  // To the one who finishes row `row` of the tile.
  __device__ void send(int sender, int token, int row, float sum) const {
#if __CUDA_ARCH__ >= 900
    const int at = place_of(sender, token, row & (own_rows() - 1));
    if (alone_) {
      reinterpret_cast<float*>(memory_)[at] = sum;
      return;
    }
    const uint32_t here = shared_address(memory_) + at * 4;
    const int owner = row >> (shift_ + 4);
    uint32_t there, barrier;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(owner));
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(barrier) : "r"(barrier_), "r"(owner));
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(there),
                 "r"(__float_as_uint(sum)), "r"(barrier)
                 : "memory");
#endif
  }
  // Finishes this block's rows of the tile, once all have sent theirs.
  __device__ void receive(const BatchCall& call, const GroupOrder& order, int senders) const {
    const int tokens = call.matrix.tokens;
    const int first_row = order.rank * own_rows();
    const int rows = max(min(order.height(0) * 16 - first_row, own_rows()), 0);
    const auto thread = static_cast<int>(threadIdx.x);
    constexpr int kTogether = 2;
#pragma unroll 1
    for (int begin = 0; begin < tokens * own_rows(); begin += kTogether * T::kThreads) {
      GroupResult results[kTogether];
      const auto row_of = [&](int i) { return (begin + thread + i * T::kThreads) & (own_rows() - 1); };
      const auto token_of = [&](int i) { return (begin + thread + i * T::kThreads) >> (shift_ + 4); };
      // What multiplies sums and is added to them is fetched before the sums are there.
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        if (token_of(i) >= tokens || row_of(i) >= rows) continue;
        const int row = first_row + row_of(i);
        results[i].find(call, RowsOfPart(call.matrix, order.first + row / 16), row % 16, token_of(i));
      }
      if (begin == 0) wait(rows * tokens * senders * 4);
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        if (results[i].to == nullptr) continue;
        float sum = 0;
#pragma unroll 4
        for (int sender = 0; sender < senders; ++sender)
          sum += reinterpret_cast<const float*>(memory_)[place_of(sender, token_of(i), row_of(i))];
        results[i].store(sum);
      }
    }
  }

 private:
  __device__ int own_rows() const { return 16 << shift_; }
  __device__ void wait(int bytes) const {
    if (alone_) {
      asm volatile("bar.sync 1, %0;" ::"n"(T::kThreads) : "memory");  // all that multiply
      return;
    }
    if (threadIdx.x == 0)
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier_), "r"(bytes) : "memory");
    wait_for(barrier_, 0);
  }
  // So that a warp's sums of 4 tokens and 8 rows meet no bank twice, rows change places.
  __device__ int place_of(int sender, int token, int row) const {
    const int slot = T::kCopies == 2 ? token : token / 2 + token % 2 * (T::kTokens / 2);
    return ((sender * T::kTokens + slot) * own_rows() + row) ^ (slot & 2) * 4;
  }

  char* memory_;
  uint32_t barrier_;
  int shift_;
  bool alone_;
};

}  // namespace edgewise::cuda
