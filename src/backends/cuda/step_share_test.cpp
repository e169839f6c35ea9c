#include "backends/cuda/step_share.h"

#include <gtest/gtest.h>

#include <bit>
#include <set>

namespace edgewise::cuda {
namespace {

// Every chunk has one warp, the contributions of multiprocessors to a block have the slots from 0 on, and the table of
// a block's parts says which warps have added to it.
void check_plan(int blocks, int chunks, int multiprocessors, int slices, int whole) {
  SCOPED_TRACE(testing::Message() << blocks << " x " << chunks << ", " << slices << " slices, whole " << whole);
  const SharePlan plan = share_out(blocks, chunks, multiprocessors, slices, whole);
  std::set<std::pair<int, int>> seen;  // chunks
  std::vector<std::set<int>> slots(plan.slots.size());
  for (const StepShare& share : plan.shares) {
    const int width = share.chunk_end - share.chunk_begin;
    std::vector<uint32_t> warps(static_cast<size_t>(blocks));
    for (int w = 0; w < kStepWarps; ++w) {
      for (uint32_t u = share.warps[w]; u < share.warps[w + 1]; ++u) {
        const int block = static_cast<int>(u) / width;
        EXPECT_TRUE(seen.emplace(block, share.chunk_begin + static_cast<int>(u) % width).second);
        EXPECT_TRUE(block >= share.first[w] && block < share.first[w] + plan.most_sums);
        warps[static_cast<size_t>(block)] |= uint32_t{1} << w;
      }
    }
    for (int local = 0; local < share.blocks; ++local) {
      const int block = share.first[0] + local;
      const BlockPart& part = plan.block_parts[static_cast<size_t>(share.parts_at + local)];
      const uint32_t bits = warps[static_cast<size_t>(block)];
      EXPECT_EQ(part.first, std::countr_zero(bits));
      EXPECT_EQ(bits >> part.first, (uint32_t{1} << part.count) - 1);
      EXPECT_EQ(part.index, block - share.first[part.first]);
      for (int w = part.first + 1; w < part.first + part.count; ++w) EXPECT_EQ(share.first[w], block);
      EXPECT_TRUE(slots[static_cast<size_t>(block)].insert(part.slot).second);
      EXPECT_EQ(share.first[0] % std::max(whole, 1), 0);
    }
    EXPECT_LE(share.blocks, plan.most_blocks);
  }
  EXPECT_EQ(seen.size(), static_cast<size_t>(blocks * chunks));
  for (size_t b = 0; b < slots.size(); ++b) {
    EXPECT_EQ(slots[b].size(), plan.slots[b]);
    EXPECT_EQ(*slots[b].begin(), 0);
    EXPECT_EQ(*slots[b].rbegin() + 1, static_cast<int>(slots[b].size()));
    EXPECT_LE(plan.slots[b], plan.most_slots);
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
