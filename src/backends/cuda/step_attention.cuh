// Attention within the kernel of a step: a block takes a tile and key head from packets to packets, and makes the cache
// grow on its way. Pages come through shared memory, the first of them while the queries are still being made; each
// warp brings and walks its own 16 tokens of a page and waits for no other.
#pragma once

#include "backends/cuda/async_copy.cuh"
#include "backends/cuda/barrier.cuh"
#include "backends/cuda/step_here.cuh"
#include "backends/cuda/step_join.cuh"
#include "backends/cuda/step_packets.cuh"
#include "backends/cuda/step_softmax.cuh"
#include "backends/cuda/step_stage.cuh"

namespace edgewise::cuda {

// A warp's 16 tokens of a page, keys or values, on their way to shared memory.
template <typename T>
__device__ inline void ask_rows(const KvLayer& layer, bool is_value, int page, int head, const SoftmaxPlace& at,
                                std::byte* rows_of_page) {
  const int words = layer.head_dim * static_cast<int>(sizeof(T)) / 16;  // of a row
  const Divisor of_row(words);
  const int stride = page_row_bytes(layer.head_dim, sizeof(T));
  const int token = at.token();
  const int64_t first = (static_cast<int64_t>(page) * layer.kv_heads + head) * kPageSlots + token;
  const std::byte* from = static_cast<const std::byte*>(is_value ? layer.values : layer.keys) + first * words * 16;
  std::byte* to = rows_of_page + ((is_value ? kPageSlots : 0) + token) * stride;
#pragma unroll 4
  for (int i = at.lane; i < 16 * words; i += 32) {
    std::byte* const place = to + of_row.quotient(i) * stride + of_row.rest(i) * 16;
    const std::byte* const word = from + i * 16;
    copy_word(shared_address(place), word);
  }
}
// What does not depend on this step's queries, while those are on their way.
__device__ inline void bring_near(const TileWork& work) {
  const StepOp& op = work.op;
  const int half = op.q_path.half;
  const int i = this_thread();
  if (i < work.dim()) {
    if (op.q_path.norm != nullptr) copy_quarter_word(shared_address(work.memory.norms[0] + i), op.q_path.norm + i);
    if (op.k_path.norm != nullptr) copy_quarter_word(shared_address(work.memory.norms[1] + i), op.k_path.norm + i);
  }
  if (i < work.call.tokens * half) {  // 4 * 64 at most
    copy_quarter_word(shared_address(work.memory.angles[0] + i), op.q_path.cos + i);
    copy_quarter_word(shared_address(work.memory.angles[1] + i), op.q_path.sin + i);
  }
  end_stage();
}

// Queries, new keys and new values as they come.
__device__ inline void receive_heads(const TileWork& work) {
  const StepOp& op = work.op;
  const int dim = work.dim();
  const int quads = dim / 4;
  const Divisor of_head(quads);
  const Divisor of_group(work.group());
  const int queries = work.queries();
  const int rows = work.new_rows();
  const int all = (queries + 2 * rows) * quads;
#pragma unroll 1
  for (int index = this_thread(); index < all; index += kStepThreads) {
    const int unit = of_head.quotient(index);
    const int quad = of_head.rest(index) * 4;
    int row = work.tile().first_row + of_group.quotient(unit);
    int head = op.columns[0] + (work.kv_head * work.group() + of_group.rest(unit)) * dim;
    if (unit >= queries) {
      const int of_new = unit - queries;
      row = work.tile().sequence_row + work.first_new() + (of_new < rows ? of_new : of_new - rows);
      head = op.columns[of_new < rows ? 1 : 2] + work.kv_head * dim;
    }
    const int slots[1] = {slots_of(op.in, work.slot_counts, head + quad)};
    const int column[1] = {row * op.in.columns + head + quad};  // of the first token
    float4 sum[1] = {};
    receive<1, 4, 2>(op.in, 0, column, slots, work.number - 1, sum);
    *reinterpret_cast<float4*>(&work.memory.heads[unit][quad]) = sum[0];
  }
}

// Norms and rotations; keys and values go to the cache. Tiles that share pages write the same twice.
template <typename T>
__device__ inline void walk_heads(const TileWork& work) {
  const int queries = work.queries();
  const int rows = work.new_rows();
  const int lane = this_thread() % 32;
  const Divisor of_group(work.group());
#pragma unroll 1
  for (int unit = this_thread() / 32; unit < queries + 2 * rows; unit += kStepWarps) {
    float* head = work.memory.heads[unit];
    const int of_new = unit - queries;
    const bool is_value = of_new >= rows;
    const int new_row = is_value ? of_new - rows : of_new;
    const int row = unit < queries ? work.tile().first_row + of_group.quotient(unit)
                                   : work.tile().sequence_row + work.first_new() + new_row;
    if (unit < queries || !is_value) {
      HeadPath path = unit < queries ? work.op.q_path : work.op.k_path;
      if (path.norm != nullptr) path.norm = work.memory.norms[unit < queries ? 0 : 1];
      path.cos = work.memory.angles[0];
      path.sin = work.memory.angles[1];
      float* to = unit < queries ? work.memory.queries[unit] : work.memory.keys[new_row];
      walk_path(path, head, row, work.dim(), lane, to);
      __syncwarp();
      head = to;
    }
    if (unit >= queries)
      store_head<T>(work.op.layer, is_value, work.slots[row], work.kv_head, head, lane,
                    work.fresh<T>(is_value, new_row));
  }
}

// This step's keys or values to their place among a warp's tokens of a page, which came before they were made.
template <typename T>
__device__ inline void patch_rows(const TileWork& work, bool is_value, int page, const SoftmaxPlace& at,
                                  std::byte* rows_of_page) {
  const int words = work.dim() * static_cast<int>(sizeof(T)) / 4;
  const int stride = page_row_bytes(work.dim(), sizeof(T));
#pragma unroll 1
  for (int row = 0; row < work.new_rows(); ++row) {
    const int slot = work.tile().kv_length + work.first_new() + row - page * kPageSlots;
    if (slot < at.token() || slot >= at.token() + 16) continue;
    auto* to = reinterpret_cast<uint32_t*>(rows_of_page + ((is_value ? kPageSlots : 0) + slot) * stride);
    const auto* from = reinterpret_cast<const uint32_t*>(work.fresh<T>(is_value, row));
#pragma unroll 1
    for (int i = at.lane; i < words; i += 32) to[i] = from[i];
  }
}

// The warps' states as results, or as this tile's part of them.
__device__ inline void send_heads(const TileWork& work) {
  const AttendTile& tile = work.tile();
  const int dim = work.dim();
  const int lane = this_thread() % 32;
  const Divisor of_group(work.group());
#pragma unroll 1
  for (int query = this_thread() / 32; query < work.queries(); query += kStepWarps) {
    const int row = of_group.quotient(query);
    const int head = work.kv_head * work.group() + of_group.rest(query);
    uint64_t* partial = partial_place(work.op, tile.slot, row, head);
    uint64_t* out = place_in(work.op.out, 0, tile.first_row + row, head * dim);
    float all = 0;
    const auto rest = [&](float most, float sum) {
      all = sum;
      if (tile.splits == 1 || lane != 0) return;
      send(partial + dim, most, work.number);
      send(partial + dim + 1, sum, work.number);
    };
    const auto value = [&](int column, const float(&x)[1]) {
      send(tile.splits > 1 ? partial + column : out + column, tile.splits > 1 ? x[0] : x[0] / all, work.number);
    };
    join_warps<kMostStepHeadDim / 64, kMostPageTurns * kTokenGroups, 1>(work.states(), work.queries(), query, dim, rest,
                                                                        value, work.call.page_turns * kTokenGroups);
  }
}

template <typename T>
__device__ inline void attend_tile(const TileWork& work) {
  const AttendTile& tile = work.tile();
  const AttendRule rule{work.op.softcap,     work.op.window,  work.group(),
                        work.call.positions, work.call.masks, work.call.pages};
  bring_near(work);
  // Four warps share out a page's tokens, and so many such groups take pages in turns.
  const int turns = work.call.page_turns;
  const SoftmaxPlace at(this_thread());
  const int turn = at.turn();
  WarpSoftmax<T> softmax{at};
#pragma unroll
  for (int r = 0; r < 2; ++r) softmax.rows[r] = view_of(rule, tile, at.lane / 4 + 8 * r);
  // The first page that any row looks at, and of this warp.
  const int first = max(tile.page_begin, oldest_of(tile, rule.window) / kPageSlots) + turn;
  const int end = turn < turns ? tile.page_end : 0;
  std::byte* const rows = work.pages + turn * 2 * kPageSlots * page_row_bytes(work.dim(), sizeof(T));
  const auto stored = [&](int page) { return page < end ? page_of(tile, work.call.pages, page) : -1; };
  const auto ask = [&](bool is_value, int page) {
    if (page >= 0) ask_rows<T>(work.op.layer, is_value, page, work.kv_head, at, rows);
    end_stage();
  };
  // What was asked for has come, but for the last group.
  const auto complete = [&](bool is_value, int page) {
    wait_stages<1>();
    __syncwarp();
    patch_rows<T>(work, is_value, page, at, rows);
    __syncwarp();
  };
  int now = stored(first);
  ask(false, now);
  ask(true, now);
  int next = stored(first + turns);
  receive_heads(work);
  wait_stages<2>();
  sync_block();
  walk_heads<T>(work);
  sync_block();
  stage_queries<Cache<T>::kBF16, AttendMemory::kSteps>(
      work.memory.q[0], work.memory.q[1], work.queries(), work.dim(), work.op.scale, kStepThreads, 2,
      [&](int query, int column) { return *reinterpret_cast<const float2*>(&work.memory.queries[query][column]); });
  sync_block();
#pragma unroll 1
  for (int page = first; page < end; page += turns) {
    const int after_next = stored(page + 2 * turns);  // long before it is wanted
    complete(false, page);
    softmax.weigh(work, rule, page, now, rows, [&] {
      __syncwarp();
      ask(false, next);
    });
    complete(true, page);
    softmax.add_values(work, rows);
    __syncwarp();
    ask(true, next);
    now = next;
    next = after_next;
  }
  sync_block();  // states lie where pages were
  if (turn < turns)
    leave_states<kMostStepHeadDim / 64>(work.states(), work.queries(), at.warp, softmax.largest, softmax.sum,
                                        softmax.values);
  sync_block();
  send_heads(work);
  sync_block();
}

template <typename T>
__device__ inline void attend_step(const StepCall& call, const StepOp& op, const StepHere& here, uint32_t number,
                                   const Memory& shared) {
  auto& memory = *reinterpret_cast<AttendMemory*>(shared.scratch);
  std::byte* const behind = shared.scratch + sizeof(AttendMemory);
  const StepTilesHere& tiles = here.tiles[op.tiles];
  const int kv_heads = op.layer.kv_heads;
  const Divisor of_heads(kv_heads);
  const auto blocks = static_cast<int>(gridDim.x);
  const auto block = static_cast<int>(blockIdx.x);
#pragma unroll 1
  for (int i = block; i < tiles.count * kv_heads; i += blocks) {
    if (i >= blocks) {
      if (this_thread() < sizeof(AttendTile) / 4)
        reinterpret_cast<int32_t*>(&memory.tile)[this_thread()] =
            reinterpret_cast<const int32_t*>(call.tiles[op.tiles].tiles + of_heads.quotient(i))[this_thread()];
      sync_block();
    }
    const AttendTile& tile = i < blocks ? tiles.tile : memory.tile;
    attend_tile<T>({call, op, memory, tile, behind, shared.slot_counts, here.slots, number, of_heads.rest(i)});
  }
  int first =
      tiles.count * kv_heads % blocks;  // block that takes the next query to be joined: first those without tiles
#pragma unroll 1
  for (int i = 0; i < tiles.group_count; ++i) {
    const SplitGroup& group = tiles.groups[i];
    const Divisor of_row(op.q_heads);
    const int queries = group.rows * op.q_heads;
    int query = block - first;
    for (query += query < 0 ? blocks : 0; query < queries; query += blocks)
      join_splits(op, group, of_row.quotient(query), of_row.rest(query), number);
    first = (first + queries) % blocks;
  }
}

}  // namespace edgewise::cuda
