// How multiprocessors share out a matrix in the kernel of a step.
#pragma once

#include <cstdint>
#include <vector>

#include "backends/cuda/step_kernel.h"

namespace edgewise::cuda {

struct SharePlan {
  std::vector<StepShare> shares;  // by multiprocessor
  std::vector<BlockWarps> block_warps;
  std::vector<uint32_t> used;  // [blocks] bits of the slots that contribute
  int slots = 1;
  int most_sums = 0;    // blocks of one warp
  int most_blocks = 0;  // of one multiprocessor
};
// `whole`: how many neighbouring blocks must stay with one multiprocessor; 0: blocks may be cut anywhere.
SharePlan share_out(int blocks, int chunks, int multiprocessors, int slices, int whole);

}  // namespace edgewise::cuda
