#include "backends/cuda/step_share.h"

#include <gtest/gtest.h>

#include <bit>
#include <set>

namespace edgewise::cuda {
namespace {

// Every chunk has one warp, every contribution of a multiprocessor to a block a slot of its own, and the table of a
// block's warps says who has added to it.
void check_plan(int blocks, int chunks, int multiprocessors, int slices, int whole) {
  SCOPED_TRACE(testing::Message() << blocks << " x " << chunks << ", " << slices << " slices, whole " << whole);
  const SharePlan plan = share_out(blocks, chunks, multiprocessors, slices, whole);
  std::set<std::pair<int, int>> seen;             // chunks
  std::vector<uint32_t> slots(plan.used.size());  // of each block
  for (const StepShare& share : plan.shares) {
    const int width = share.chunk_end - share.chunk_begin;
    std::vector<uint32_t> warps(static_cast<size_t>(blocks));
    for (int w = 0; w < kStepWarps; ++w) {
      for (uint32_t u = share.warps[w]; u < share.warps[w + 1]; ++u) {
        const int block = static_cast<int>(u) / width;
        EXPECT_TRUE(seen.emplace(block, share.chunk_begin + static_cast<int>(u) % width).second);
        EXPECT_TRUE(block >= share.first[w] && block <= share.last[w]);
        warps[static_cast<size_t>(block)] |= uint32_t{1} << w;
      }
    }
    for (int local = 0; local < share.blocks; ++local) {
      const int block = share.first[0] + local;
      const BlockWarps& entry = plan.block_warps[static_cast<size_t>(share.words_at + local)];
      EXPECT_EQ(entry.warps, warps[static_cast<size_t>(block)]);
      EXPECT_EQ(entry.first, std::countr_zero(warps[static_cast<size_t>(block)]));
      EXPECT_EQ(entry.index, block - share.first[entry.first]);
      EXPECT_LE(share.last[entry.first] - share.first[entry.first] + 1, plan.most_sums);
      for (int w = entry.first + 1; w < kStepWarps; ++w) {
        const bool adds = (entry.warps >> w & 1) != 0;
        EXPECT_TRUE(!adds || share.first[w] == block);
      }
      const uint32_t slot = uint32_t{1} << (local == 0 ? share.first_slot : share.slot);
      EXPECT_EQ(slots[static_cast<size_t>(block)] & slot, 0u);
      slots[static_cast<size_t>(block)] |= slot;
      EXPECT_EQ(share.first[0] % std::max(whole, 1), 0);
    }
    EXPECT_LE(share.blocks, plan.most_blocks);
  }
  EXPECT_EQ(seen.size(), static_cast<size_t>(blocks * chunks));
  EXPECT_EQ(slots, plan.used);
  for (const uint32_t used : plan.used) {
    EXPECT_LE(std::bit_width(used), plan.slots);
    EXPECT_NE(used & 1, 0u);  // to which the bias and the residual are added
  }
}

TEST(StepShareTest, EveryChunkOnce) {
  for (const int multiprocessors : {1, 8, 108, 132}) {
    for (const auto& [blocks, chunks] : {std::pair{1, 1}, {5, 2}, {64, 16}, {224, 56}, {288, 56}, {7, 296}}) {
      for (const int slices : {1, 2, 4}) {
        if (slices > std::min(chunks, multiprocessors)) continue;
        check_plan(blocks, chunks, multiprocessors, slices, 0);
      }
      check_plan(blocks, chunks, multiprocessors, 1, 1);
      check_plan(2 * blocks, chunks, multiprocessors, 1, 2);
    }
  }
}

}  // namespace
}  // namespace edgewise::cuda
