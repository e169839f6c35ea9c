// How multiprocessors share out a matrix in the kernel of a step.
#pragma once

#include <cstdint>
#include <vector>

#include "backends/cuda/step_kernel.h"

namespace edgewise::cuda {

struct SharePlan {
  std::vector<StepShare> shares;  // by multiprocessor
  std::vector<BlockPart> block_parts;
  std::vector<uint8_t> slots;  // [blocks] how many multiprocessors contribute
  int most_slots = 1;
  int most_sums = 0;    // blocks of one warp
  int most_blocks = 0;  // of one multiprocessor
};
// `whole`: how many neighbouring blocks must stay with one multiprocessor; 0: blocks may be cut anywhere. BlockPart
// can only say what is below 256: whoever goes on asks most_slots and most_sums.
SharePlan share_out(int blocks, int chunks, int multiprocessors, int slices, int whole);

}  // namespace edgewise::cuda
