// What blocks look up in a step's tables once, for all operators.
#pragma once

#include "backends/cuda/step_kernel.h"

namespace edgewise::cuda {

// Tiles that share the history of the same rows.
struct SplitGroup {
  int first_row;
  int rows;
  int first_slot;
  int splits;
};

// What all operators with the same tiles need of them: the first one that this block takes, and whose parts are to be
// joined.
struct StepTilesHere {
  AttendTile tile;
  int count;
  SplitGroup groups[kMostDecodeTokens];
  int group_count;
};
// Of the step's tables, brought nearer.
struct StepHere {
  StepTilesHere tiles[kMostStepTiles];
  int32_t slots[kMostDecodeTokens];
};

__device__ inline void bring_tiles(const StepCall& call, int number, StepTilesHere& to) {
  if (call.kv_heads[number] == 0) return;
  const AttendTile* tiles = call.tiles[number].tiles;
  const int count = *call.tiles[number].count;
  const int tile = static_cast<int>(blockIdx.x) / call.kv_heads[number];
  if (tile < count && threadIdx.x < sizeof(AttendTile) / 4)
    reinterpret_cast<int32_t*>(&to.tile)[threadIdx.x] = reinterpret_cast<const int32_t*>(tiles + tile)[threadIdx.x];
  if (threadIdx.x != 0) return;
  to.count = count;
  to.group_count = 0;
  for (int i = 0; i < count; i += tiles[i].splits) {
    if (tiles[i].splits > 1)
      to.groups[to.group_count++] = {tiles[i].first_row, tiles[i].rows, tiles[i].first_slot, tiles[i].splits};
  }
}
__device__ inline void bring_here(const StepCall& call, StepHere& to) {
#pragma unroll 1
  for (int i = 0; i < kMostStepTiles; ++i) bring_tiles(call, i, to.tiles[i]);
  if (static_cast<int>(threadIdx.x) < call.tokens) to.slots[threadIdx.x] = call.slots[threadIdx.x];
}

}  // namespace edgewise::cuda
