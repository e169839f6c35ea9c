// A warp's weights for a whole step, as they come through its ring in shared memory.
#pragma once

#include "backends/cuda/step_kernel.h"

namespace edgewise::cuda {

// A place in a warp's share of a Linear.
struct ShareCursor {
  int left = 0;  // chunks
  int block = 0;
  int chunk = 0;

  __device__ ShareCursor() {}
  __device__ ShareCursor(const StepShare& share, int warp)
      : left(static_cast<int>(share.warps[warp + 1] - share.warps[warp])),
        block(share.first[warp]),
        chunk(share.chunk_begin + static_cast<int>(share.warps[warp]) - block * (share.chunk_end - share.chunk_begin)) {
  }
  // Chunks of one block that come together.
  __device__ int stage(const StepShape& shape, const StepShare& share) const {
    return min(min(shape.stage_chunks, share.chunk_end - chunk), left);
  }
  // True when a block has ended.
  __device__ bool advance(const StepShare& share, int chunks) {
    left -= chunks;
    chunk += chunks;
    if (chunk < share.chunk_end) return false;
    chunk = share.chunk_begin;
    ++block;
    return true;
  }
};

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

// Until what was expected of a barrier in shared memory has come.
__device__ inline void wait_for(uint32_t barrier, uint32_t parity) {
  uint32_t done = 0;
  while (done == 0) {
    asm volatile("{\n .reg .pred p;\n mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n selp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(barrier), "r"(parity)
                 : "memory");
  }
}

class Feed {
 public:
  // `ring` [depth] stages and `barriers` [depth], of this warp, in shared memory.
  __device__ Feed(const StepCall& call, const StepLinear* linears, const StepShare* shares, int linear_count,
                  std::byte* ring, uint64_t* barriers)
      : call_(call),
        linears_(linears),
        shares_(shares),
        linear_count_(linear_count),
        ring_(static_cast<uint32_t>(__cvta_generic_to_shared(ring))),
        barriers_(static_cast<uint32_t>(__cvta_generic_to_shared(barriers))),
        warp_(static_cast<int>(threadIdx.x / 32)) {
    uint64_t policy = 0;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    policy_ = policy;
  }

  __device__ void begin() {
    if (threadIdx.x % 32 == 0) {
#pragma unroll 1
      for (int i = 0; i < call_.ring_depth; ++i)
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barriers_ + i * 8) : "memory");
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncwarp();
    linear_ = -1;
    next_linear();
    free_ = call_.ring_depth;
    refill();
  }

  // The stage that is next, once it is there.
  __device__ std::byte* wait(std::byte* ring) {
    wait_for(barriers_ + slot_ * 8, parity_);
    return ring + slot_ * kStageBytes;
  }
  // Done with it, by the whole warp. Its place is asked for again when half of the ring is free, or by refill() where
  // the warp would only wait.
  __device__ void release() {
    __syncwarp();
    if (++slot_ == call_.ring_depth) {
      slot_ = 0;
      parity_ ^= 1;
    }
    if (++free_ * 2 > call_.ring_depth) refill();
  }
  __device__ void refill() {
#pragma unroll 1
    for (; free_ > 0; --free_) ask();
  }

 private:
  __device__ void next_linear() {
    do {
      if (++linear_ >= linear_count_) return;
      cursor_ = ShareCursor(shares_[linears_[linear_].shape], warp_);
    } while (cursor_.left <= 0);
    const StepShape& shape = call_.shapes[linears_[linear_].shape];
    stage_chunks_ = shape.stage_chunks;
    chunk_bytes_ = shape.chunk_bytes;
    chunk_end_ = shares_[linears_[linear_].shape].chunk_end;
    scaled_ = shape.scaling != Scaling::kRow || shape.zeros;
    find_block();
  }
  __device__ void find_block() {
    const StepLinear& linear = linears_[linear_];
    const StepShape& shape = call_.shapes[linear.shape];
    place_ = place_of(shape, cursor_.block);
    from_ =
        linear.parts[place_.part] + (static_cast<int64_t>(place_.block) * shape.chunks + cursor_.chunk) * chunk_bytes_;
  }

  // Puts the warp's next stage on its way, to where one was released.
  __device__ void ask() {
    if (linear_ >= linear_count_) return;
    const int chunks = min(min(stage_chunks_, chunk_end_ - cursor_.chunk), cursor_.left);
    const int bytes = chunks * chunk_bytes_;
    if (threadIdx.x % 32 == 0) {
      const uint32_t to = ring_ + ask_slot_ * kStageBytes;
      const uint32_t barrier = barriers_ + ask_slot_ * 8;
      if (scaled_)
        ask_scales(chunks, to + bytes, barrier, bytes);
      else
        expect(barrier, bytes);
      copy(to, from_, bytes, barrier);
    }
    if (++ask_slot_ == call_.ring_depth) ask_slot_ = 0;
    from_ += bytes;
    cursor_.left -= chunks;
    cursor_.chunk += chunks;
    if (cursor_.left == 0) {
      next_linear();
    } else if (cursor_.chunk == chunk_end_) {
      cursor_.chunk = shares_[linears_[linear_].shape].chunk_begin;
      ++cursor_.block;
      find_block();
    }
  }

  __device__ void ask_scales(int chunks, uint32_t to, uint32_t barrier, int weight_bytes) {
    const StepLinear& linear = linears_[linear_];
    const StepShape& shape = call_.shapes[linear.shape];
    const StageScales scales = scales_of(shape, cursor_.chunk, chunks);
    const std::byte* weights = linear.parts[place_.part];
    const int64_t column = static_cast<int64_t>(place_.block) * shape.scale_columns + scales.first;
    const int of_column = scale_bytes(shape);
    const int bytes = scales.count * of_column;
    const int of_zeros = static_cast<int>(kBlockRows) * 2;
    const int zero_bytes = shape.zeros ? scales.count * of_zeros : 0;
    expect(barrier, weight_bytes + bytes + zero_bytes);
    if (bytes > 0)
      copy(to, weights + static_cast<int64_t>(shape.scales_at[place_.part]) * 256 + column * of_column, bytes, barrier);
    if (zero_bytes > 0)
      copy(to + bytes, weights + static_cast<int64_t>(shape.zeros_at[place_.part]) * 256 + column * of_zeros,
           zero_bytes, barrier);
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
  int linear_count_;
  uint32_t ring_;
  uint32_t barriers_;
  uint64_t policy_;
  int warp_;
  int slot_ = 0;  // read next
  uint32_t parity_ = 0;
  int ask_slot_ = 0;
  int free_ = 0;
  int stage_chunks_ = 0;  // of the Linear asked for
  int chunk_bytes_ = 0;
  int chunk_end_ = 0;
  bool scaled_ = false;
  int linear_ = 0;  // asked for next
  ShareCursor cursor_;
  BlockPlace place_;
  const std::byte* from_ = nullptr;
};

}  // namespace edgewise::cuda
