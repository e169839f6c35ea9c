#include "backends/cuda/step_share.h"

#include <algorithm>

namespace edgewise::cuda {
namespace {

uint8_t byte(int value) { return static_cast<uint8_t>(std::min(value, 255)); }

// Of the warps whose ranges, in chunks, meet the block.
BlockPart part_of(const StepShare& share, int block, int64_t width) {
  int first = -1;
  int count = 0;
  for (int w = 0; w < kStepWarps; ++w) {
    if (share.warps[w + 1] <= block * width || share.warps[w] >= (block + 1) * width) continue;
    if (share.warps[w + 1] == share.warps[w]) break;
    if (first < 0) first = w;
    count = w - first + 1;
  }
  return {byte(first), byte(count), byte(block - share.first[first]), 0};
}

}  // namespace

SharePlan share_out(int blocks, int chunks, int multiprocessors, int slices, int whole) {
  SharePlan plan;
  plan.slots.assign(static_cast<size_t>(blocks), 0);
  plan.shares.resize(static_cast<size_t>(multiprocessors));
  const int in_slice = multiprocessors / slices;
  for (int i = 0; i < in_slice * slices; ++i) {
    StepShare& share = plan.shares[static_cast<size_t>(i)];
    const int slice = i / in_slice;
    const int64_t number = i % in_slice;
    share.chunk_begin = chunks * slice / slices;
    share.chunk_end = chunks * (slice + 1) / slices;
    const int64_t width = share.chunk_end - share.chunk_begin;
    const auto boundary = [&](int64_t n) {
      if (whole == 0) return blocks * width * n / in_slice;
      return blocks / whole * n / in_slice * whole * width;
    };
    const int64_t begin = boundary(number);
    const int64_t end = boundary(number + 1);
    const int64_t busy = std::clamp<int64_t>(end - begin, 1, kStepWarps);  // no idle warp among the others
    for (int w = 0; w <= kStepWarps; ++w)
      share.warps[w] = static_cast<uint32_t>(begin + (end - begin) * std::min<int64_t>(w, busy) / busy);
    for (int w = 0; w < kStepWarps; ++w) {
      share.first[w] = static_cast<int32_t>(share.warps[w] / width);
      if (share.warps[w + 1] == share.warps[w]) continue;
      const auto last = static_cast<int32_t>((share.warps[w + 1] - 1) / width);
      plan.most_sums = std::max(plan.most_sums, last - share.first[w] + 1);
    }
    if (end == begin) continue;
    const auto last = static_cast<int>((end - 1) / width);
    share.blocks = last - share.first[0] + 1;
    share.parts_at = static_cast<int32_t>(plan.block_parts.size());
    for (int b = share.first[0]; b <= last; ++b) {
      BlockPart part = part_of(share, b, width);
      uint8_t& slots = plan.slots[static_cast<size_t>(b)];
      part.slot = slots;
      slots = byte(slots + 1);
      plan.most_slots = std::max<int>(plan.most_slots, slots);
      plan.block_parts.push_back(part);
    }
    plan.most_blocks = std::max(plan.most_blocks, share.blocks);
  }
  return plan;
}

}  // namespace edgewise::cuda
