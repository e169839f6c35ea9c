// Weights on their way: the warp that asks for them, and the rings in shared memory through which the others get
// theirs.
#pragma once

#include "backends/cuda/barrier.cuh"
#include "backends/cuda/step_kernel.h"

namespace edgewise::cuda {

struct BlockPlace {
  int part;
  int block;  // of the part
};
__device__ inline BlockPlace place_of(const StepShape& shape, int block) {
  if (shape.paired) return {block % 2, block / 2};
  int part = 0;
  while (part + 1 < kMostStepParts && block >= shape.first_block[part + 1]) ++part;
  return {part, block - shape.first_block[part]};
}

// The column of scales of a chunk, or of its 16 columns `lane_columns`.
__device__ inline int scale_column(const StepShape& shape, int chunk, int lane_columns) {
  if (shape.scaling == Scaling::kRow) return 0;
  const unsigned index = shape.scaling == Scaling::kLanes ? chunk * 4 + lane_columns : chunk;
  return min(static_cast<int>(index * shape.scale_magic >> 20), shape.scale_columns - 1);
}

// A stage in the ring: weights of some chunks, then their scales, then their zero points, [columns][8][2] each.
struct StageScales {
  int first;  // column of scales
  int count;
};
__device__ inline StageScales scales_of(const StepShape& shape, int chunk, int chunks) {
  const int first = scale_column(shape, chunk, 0);
  return {first, scale_column(shape, chunk + chunks - 1, 3) - first + 1};
}
// Bytes of a column of scales of 16 rows.
__device__ inline int scale_bytes(const StepShape& shape) {
  return shape.scaling == Scaling::kRow ? 0
                                        : static_cast<int>(kBlockRows) * (shape.scaling == Scaling::kChunks ? 4 : 2);
}

// The barriers of a ring's stages: `full` when what was asked for has come, `empty` when the warp is done with it.
struct RingBarriers {
  uint64_t full[kMostRingDepth];
  uint64_t empty[kMostRingDepth];
};

// A warp's ring as that warp sees it.
class Ring {
 public:
  // `stages` [depth] in shared memory.
  __device__ Ring(const StepCall& call, const std::byte* stages, const RingBarriers& barriers)
      : call_(call), stages_(stages), barriers_(shared_address(&barriers)) {}

  // The stage that is next, once it is there.
  __device__ const std::byte* wait() const {
    wait_for(barriers_ + place_.slot * 8, place_.parity);
    return stages_ + place_.slot * call_.stage_bytes;
  }
  // Done with it, by the whole warp.
  __device__ void release() {
    __syncwarp();
    if (threadIdx.x % 32 == 0)
      asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barriers_ + kEmpty + place_.slot * 8) : "memory");
    place_.advance(call_.ring_depth);
  }

 private:
  static constexpr int kEmpty = static_cast<int>(offsetof(RingBarriers, empty));

  const StepCall& call_;
  const std::byte* stages_;
  uint32_t barriers_;
  RingPlace place_;
};

// A lane of the warp that feeds the others: it keeps the ring of warp `lane` full.
class Feed {
 public:
  __device__ Feed(const StepCall& call, const StepLinear* linears, const StepShare* shares, const std::byte* rings,
                  const RingBarriers* barriers)
      : call_(call), linears_(linears), shares_(shares), warp_(static_cast<int>(threadIdx.x % 32)) {
    ring_ = shared_address(rings) + warp_ * call.ring_depth * call.stage_bytes;
    full_ = shared_address(barriers) + warp_ * static_cast<int>(sizeof(RingBarriers));
    empty_ = full_ + kMostRingDepth * 8;
    place_.parity = 1;  // as if all had just been emptied
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy_));
    linear_ = warp_ < kStepWarps ? -1 : call.linear_count;
    if (warp_ >= kStepWarps) return;
#pragma unroll 1
    for (int i = 0; i < call.ring_depth; ++i) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(full_ + i * 8) : "memory");
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(empty_ + i * 8) : "memory");
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    next_linear();
  }

  // To the step's end. By all lanes.
  __device__ void run() {
    while (__any_sync(~0u, linear_ < call_.linear_count)) {
      const bool now = linear_ < call_.linear_count && is_empty();
      if (now) ask();
      if (!__any_sync(~0u, now)) __nanosleep(32);
    }
  }

 private:
  __device__ bool is_empty() const {
    uint32_t empty;
    asm volatile("{\n .reg .pred p;\n mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n selp.u32 %0, 1, 0, p;\n}"
                 : "=r"(empty)
                 : "r"(empty_ + place_.slot * 8), "r"(place_.parity)
                 : "memory");
    return empty != 0;
  }

  __device__ void next_linear() {
    do {
      if (++linear_ >= call_.linear_count) return;
      const StepShare& share = shares_[linears_[linear_].shape];
      left_ = static_cast<int>(share.warps[warp_ + 1] - share.warps[warp_]);
      block_ = share.first[warp_];
      chunk_ =
          share.chunk_begin + static_cast<int>(share.warps[warp_]) - block_ * (share.chunk_end - share.chunk_begin);
      chunk_end_ = share.chunk_end;
    } while (left_ <= 0);
    const StepShape& shape = call_.shapes[linears_[linear_].shape];
    stage_chunks_ = shape.stage_chunks;
    chunk_bytes_ = shape.chunk_bytes;
    scaled_ = shape.scaling != Scaling::kRow || shape.zeros;
    find_block();
  }
  __device__ void find_block() {
    const StepLinear& linear = linears_[linear_];
    const StepShape& shape = call_.shapes[linear.shape];
    block_place_ = place_of(shape, block_);
    from_ = linear.parts[block_place_.part] +
            (static_cast<int64_t>(block_place_.block) * shape.chunks + chunk_) * chunk_bytes_;
  }

  // Puts the warp's next stage on its way.
  __device__ void ask() {
    const int chunks = min(min(stage_chunks_, chunk_end_ - chunk_), left_);
    const int bytes = chunks * chunk_bytes_;
    const uint32_t to = ring_ + place_.slot * call_.stage_bytes;
    const uint32_t barrier = full_ + place_.slot * 8;
    expect(barrier, bytes + (scaled_ ? ask_scales(chunks, to + bytes, barrier) : 0));
    copy(to, from_, bytes, barrier);
    place_.advance(call_.ring_depth);
    from_ += bytes;
    left_ -= chunks;
    chunk_ += chunks;
    if (left_ == 0) {
      next_linear();
    } else if (chunk_ == chunk_end_) {
      chunk_ = shares_[linears_[linear_].shape].chunk_begin;
      ++block_;
      find_block();
    }
  }

  // Of so many bytes.
  __device__ int ask_scales(int chunks, uint32_t to, uint32_t barrier) {
    const StepLinear& linear = linears_[linear_];
    const StepShape& shape = call_.shapes[linear.shape];
    const StageScales scales = scales_of(shape, chunk_, chunks);
    const std::byte* weights = linear.parts[block_place_.part];
    const int column = block_place_.block * shape.scale_columns + scales.first;
    int all = 0;
    const auto ask = [&](uint32_t at, int of_column) {
      const std::byte* from = weights + static_cast<int64_t>(at) * 256 + static_cast<int64_t>(column) * of_column;
      copy(to + all, from, scales.count * of_column, barrier);
      all += scales.count * of_column;
    };
    if (shape.scaling != Scaling::kRow) ask(shape.scales_at[block_place_.part], scale_bytes(shape));
    if (shape.zeros) ask(shape.zeros_at[block_place_.part], static_cast<int>(kBlockRows) * 2);
    return all;
  }

  __device__ void expect(uint32_t barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
  }
  __device__ void copy(uint32_t to, const std::byte* from, int bytes, uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
            "r"(to),
        "l"(from), "r"(bytes), "r"(barrier), "l"(policy_)
        : "memory");
  }

  const StepCall& call_;
  const StepLinear* linears_;
  const StepShare* shares_;
  int warp_;
  uint32_t ring_;
  uint32_t full_;
  uint32_t empty_;
  uint64_t policy_ = 0;
  RingPlace place_;  // asked for next
  int linear_;
  int left_ = 0;  // chunks of the Linear
  int block_ = 0;
  int chunk_ = 0;
  int chunk_end_ = 0;
  int stage_chunks_ = 0;
  int chunk_bytes_ = 0;
  bool scaled_ = false;
  BlockPlace block_place_;
  const std::byte* from_ = nullptr;
};

}  // namespace edgewise::cuda
