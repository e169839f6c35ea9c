#include "backends/cuda/step_share.h"

#include <algorithm>

namespace edgewise::cuda {
namespace {

BlockWarps warps_of(const StepShare& share, int block) {
  BlockWarps result;
  for (int w = kStepWarps; w-- > 0;) {
    if (block < share.first[w] || block > share.last[w]) continue;
    result.warps = static_cast<uint8_t>(result.warps | 1 << w);
    result.first = static_cast<uint8_t>(w);
    result.index = static_cast<uint16_t>(block - share.first[w]);
  }
  return result;
}

}  // namespace

SharePlan share_out(int blocks, int chunks, int multiprocessors, int slices, int whole) {
  SharePlan plan;
  plan.used.assign(static_cast<size_t>(blocks), 0);
  plan.shares.resize(static_cast<size_t>(multiprocessors));
  const int in_slice = multiprocessors / slices;
  std::vector<std::vector<int>> contributors(static_cast<size_t>(slices),
                                             std::vector<int>(static_cast<size_t>(blocks)));
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
    for (int w = 0; w <= kStepWarps; ++w)
      share.warps[w] = static_cast<uint32_t>(begin + (end - begin) * w / kStepWarps);
    for (int w = 0; w < kStepWarps; ++w) {
      share.first[w] = static_cast<int32_t>(share.warps[w] / width);
      const bool any = share.warps[w + 1] > share.warps[w];
      share.last[w] = any ? static_cast<int32_t>((share.warps[w + 1] - 1) / width) : share.first[w] - 1;
      plan.most_sums = std::max(plan.most_sums, share.last[w] - share.first[w] + 1);
    }
    if (end == begin) continue;
    const auto last = static_cast<int>((end - 1) / width);
    share.blocks = last - share.first[0] + 1;
    share.words_at = static_cast<int32_t>(plan.block_warps.size());
    for (int b = share.first[0]; b <= last; ++b) plan.block_warps.push_back(warps_of(share, b));
    plan.most_blocks = std::max(plan.most_blocks, share.blocks);
    auto& of_slice = contributors[static_cast<size_t>(slice)];
    share.first_slot = of_slice[static_cast<size_t>(share.first[0])];
    for (int b = share.first[0]; b <= last; ++b) plan.slots = std::max(plan.slots, ++of_slice[static_cast<size_t>(b)]);
  }
  // So far slots are counted within a slice.
  for (int i = 0; i < in_slice * slices; ++i) {
    StepShare& share = plan.shares[static_cast<size_t>(i)];
    share.slot = i / in_slice * plan.slots;
    share.first_slot += share.slot;
  }
  for (int slice = 0; slice < slices; ++slice) {
    for (int b = 0; b < blocks; ++b) {
      const int count = contributors[static_cast<size_t>(slice)][static_cast<size_t>(b)];
      plan.used[static_cast<size_t>(b)] |= ((uint32_t{1} << count) - 1) << (slice * plan.slots);
    }
  }
  plan.slots *= slices;
  return plan;
}

}  // namespace edgewise::cuda
