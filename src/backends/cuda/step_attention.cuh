// Attention within the kernel of a step: a block takes a tile and key head from packets to packets, and makes the cache
// grow on its way. Pages come through shared memory, the first of them while the queries are still being made.
#pragma once

#include "backends/cuda/step_packets.cuh"
#include "backends/cuda/step_softmax.cuh"

namespace edgewise::cuda {

// A head's keys and values of a page on their way to shared memory, by all threads, as one group of cp.async.
template <typename T>
__device__ inline void ask_page(const KvLayer& layer, int page, int head, std::byte* rows_of_page) {
  const int words = layer.head_dim * static_cast<int>(sizeof(T)) / 16;  // of a row
  const Divisor of_row(words);
  const int stride = page_row_bytes(layer.head_dim, sizeof(T));
  const int64_t first = (static_cast<int64_t>(page) * layer.kv_heads + head) * kPageSlots * words * 16;
  const std::byte* keys = static_cast<const std::byte*>(layer.keys) + first;
  const std::byte* values = static_cast<const std::byte*>(layer.values) + first;
#pragma unroll 1
  for (int i = threadIdx.x; i < kPageSlots * words; i += kStepThreads) {
    std::byte* to = rows_of_page + of_row.quotient(i) * stride + of_row.rest(i) * 16;
    copy_words(to, keys + i * 16);
    copy_words(to + kPageSlots * stride, values + i * 16);
  }
}
__device__ inline void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until only the last kCount groups may be under way.
template <int kCount>
__device__ inline void wait_groups() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kCount) : "memory");
}

// The first tile that this block takes of each operator, and how many there are: the same for the whole step.
struct StepTilesHere {
  AttendTile tile;
  int count;
};
__device__ inline void bring_tile(const StepCall& call, int number, StepTilesHere& to) {
  if (call.kv_heads[number] == 0) return;
  const int count = *call.tiles[number].count;
  const int tile = static_cast<int>(blockIdx.x) / call.kv_heads[number];
  if (threadIdx.x == 0) to.count = count;
  if (tile < count && threadIdx.x < sizeof(AttendTile) / 4)
    reinterpret_cast<int32_t*>(&to.tile)[threadIdx.x] =
        reinterpret_cast<const int32_t*>(call.tiles[number].tiles + tile)[threadIdx.x];
}

// What does not depend on this step's queries, while those are on their way.
__device__ inline void bring_near(const TileWork& work) {
  const StepOp& op = work.op;
  const int half = op.q_path.half;
  const int i = static_cast<int>(threadIdx.x);
  if (i < work.dim()) {
    if (op.q_path.norm != nullptr) copy_word(work.memory.norms[0] + i, op.q_path.norm + i);
    if (op.k_path.norm != nullptr) copy_word(work.memory.norms[1] + i, op.k_path.norm + i);
  }
  if (i < work.call.tokens * half) {  // 4 * 64 at most
    copy_word(work.memory.angles[0] + i, op.q_path.cos + i);
    copy_word(work.memory.angles[1] + i, op.q_path.sin + i);
  }
  end_group();
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
  constexpr int kAtOnce = 1;
#pragma unroll 1
  for (int begin = static_cast<int>(threadIdx.x); begin < all; begin += kAtOnce * kStepThreads) {
    // Places of one token in a call; here each has its own, so it stands in the column.
    int column[kAtOnce];
    int slots[kAtOnce];
    float4 sum[kAtOnce] = {};
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int index = begin + i * kStepThreads;
      const int unit = of_head.quotient(index);
      int row = work.tile().first_row + of_group.quotient(unit);
      int head = op.columns[0] + (work.kv_head * work.group() + of_group.rest(unit)) * dim;
      if (unit >= queries) {
        const int of_new = unit - queries;
        row = work.tile().sequence_row + work.first_new() + (of_new < rows ? of_new : of_new - rows);
        head = op.columns[of_new < rows ? 1 : 2] + work.kv_head * dim;
      }
      const int at = head + of_head.rest(index) * 4;
      column[i] = row * op.in.columns + at;
      slots[i] = index >= all ? 0 : op.in.slots != nullptr ? __ldg(op.in.slots + at / static_cast<int>(kBlockRows)) : 1;
    }
    receive<kAtOnce, 4>(op.in, 0, column, slots, work.number - 1, sum);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int index = begin + i * kStepThreads;
      if (index < all)
        *reinterpret_cast<float4*>(&work.memory.heads[of_head.quotient(index)][of_head.rest(index) * 4]) = sum[i];
    }
  }
}

// Norms and rotations; keys and values go to the cache. Tiles that share pages write the same twice.
template <typename T>
__device__ inline void walk_heads(const TileWork& work) {
  const int queries = work.queries();
  const int rows = work.new_rows();
  const int lane = threadIdx.x % 32;
  const Divisor of_group(work.group());
#pragma unroll 1
  for (int unit = threadIdx.x / 32; unit < queries + 2 * rows; unit += kStepWarps) {
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
      store_head<T>(work.op.layer, is_value, work.call.slots[row], work.kv_head, head, lane,
                    work.fresh<T>(is_value, new_row));
  }
}

// This step's keys and values to their place in a page that was loaded before they were made.
template <typename T>
__device__ inline void patch_page(const TileWork& work, int page, std::byte* rows_of_page) {
  const int words = work.dim() * static_cast<int>(sizeof(T)) / 4;
  const int stride = page_row_bytes(work.dim(), sizeof(T));
  for (int row = 0; row < work.new_rows(); ++row) {
    const int slot = work.tile().kv_length + work.first_new() + row - page * kPageSlots;
    if (slot < 0 || slot >= kPageSlots) continue;
    for (int i = static_cast<int>(threadIdx.x); i < 2 * words; i += kStepThreads) {
      const bool is_value = i >= words;
      const int word = is_value ? i - words : i;
      reinterpret_cast<uint32_t*>(rows_of_page + ((is_value ? kPageSlots : 0) + slot) * stride)[word] =
          reinterpret_cast<const uint32_t*>(work.fresh<T>(is_value, row))[word];
    }
  }
}

__device__ inline uint64_t* partial_place(const StepOp& op, int slot, int row, int head) {
  return op.partial +
         ((static_cast<int64_t>(slot) * kMostDecodeTokens + row) * op.q_heads + head) * (op.layer.head_dim + 2);
}

// The warps' states as results, or as this tile's part of them.
__device__ inline void send_heads(const TileWork& work) {
  const AttendTile& tile = work.tile();
  const int dim = work.dim();
  const int lane = threadIdx.x % 32;
  const Divisor of_group(work.group());
#pragma unroll 1
  for (int query = threadIdx.x / 32; query < work.queries(); query += kStepWarps) {
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
    join_warps<kMostStepHeadDim / 64, kTokenGroups>(
        work.states(), work.queries(), query, dim, rest, [&](int column, float value) {
          send(tile.splits > 1 ? partial + column : out + column, tile.splits > 1 ? value : value / all, work.number);
        });
  }
}

// The first page that any row looks at.
__device__ inline int first_page(const TileWork& work, const AttendRule& rule) {
  RowView rows[2];
  int oldest = look_at_rows(rule, work.tile(), threadIdx.x % 32 / 4, rows);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) oldest = min(oldest, __shfl_xor_sync(~0u, oldest, offset));
  return max(work.tile().page_begin, max(oldest, 0) / kPageSlots);
}

template <typename T>
__device__ inline void attend_tile(const TileWork& work) {
  const AttendTile& tile = work.tile();
  const AttendRule rule{work.op.softcap, work.op.window, work.group(),   work.call.positions,
                        work.call.masks, &tile,          work.call.pages};
  bring_near(work);
  const int first = first_page(work, rule);
  const int page_bytes = 2 * kPageSlots * page_row_bytes(work.dim(), sizeof(T));
  const int turns = work.call.page_turns;
  const auto place = [&](int page) { return work.pages + (turns > 1 ? (page - first) % 2 : 0) * page_bytes; };
  const auto ask = [&](int page) {
    if (page < tile.page_end)
      ask_page<T>(work.op.layer, page_of(&tile, work.call.pages, page), work.kv_head, place(page));
    end_group();
  };
  ask(first);
  if (turns > 1) ask(first + 1);
  receive_heads(work);
  if (turns > 1)
    wait_groups<2>();
  else
    wait_groups<1>();
  sync_block();
  walk_heads<T>(work);
  sync_block();
  stage_queries<Cache<T>::kBF16, AttendMemory::kSteps>(
      work.memory.q[0], work.memory.q[1], work.queries(), work.dim(), work.op.scale, kStepThreads,
      [&](int query, int column) { return *reinterpret_cast<const float2*>(&work.memory.queries[query][column]); });
  const bool attends = threadIdx.x < kSoftmaxWarps * 32;
  WarpSoftmax<T> softmax;
#pragma unroll 1
  for (int page = first; page < tile.page_end; ++page) {
    if (turns > 1)
      wait_groups<1>();
    else
      wait_groups<0>();
    sync_block();
    patch_page<T>(work, page, place(page));
    sync_block();
    if (attends) softmax.add_page(work, rule, page, place(page));
    sync_block();
    ask(page + turns);
  }
  if (attends) softmax.leave(work.states(), work.queries());
  sync_block();
  send_heads(work);
  sync_block();
}

// The parts of a query whose history several blocks share out, as one. A warp takes splits 8 apart.
__device__ inline void join_splits(const StepOp& op, const AttendTile& tile, int row, int head, uint32_t number,
                                   float* states) {
  const int dim = op.layer.head_dim;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const bool has_columns = lane * 4 < dim;
  float most = -INFINITY;
  float sum = 0;
  float4 values = {};
#pragma unroll 1
  for (int split = warp; split < tile.splits; split += kStepWarps) {
    const uint64_t* from = partial_place(op, tile.first_slot + split, row, head);
    Received<2> rest;
    Quad quad;
    Patience patience;
    bool complete = false;
    while (!complete) {
      rest.look(from + dim);
      if (has_columns) quad.look(from + lane * 4);
      complete = rest.complete(number) && (!has_columns || quad.complete(number));
      patience.again();
    }
    const float now = fmaxf(most, rest.value(0));
    const float shrink = now == -INFINITY ? 0.0f : __expf(most - now);
    const float share = now == -INFINITY ? 0.0f : __expf(rest.value(0) - now);
    most = now;
    sum = sum * shrink + rest.value(1) * share;
    if (has_columns) {
      values.x = values.x * shrink + quad.value(0) * share;
      values.y = values.y * shrink + quad.value(1) * share;
      values.z = values.z * shrink + quad.value(2) * share;
      values.w = values.w * shrink + quad.value(3) * share;
    }
  }
  float* state = states + warp * (kMostStepHeadDim + 2);
  if (has_columns) {
    state[lane * 4] = values.x;
    state[lane * 4 + 1] = values.y;
    state[lane * 4 + 2] = values.z;
    state[lane * 4 + 3] = values.w;
  }
  if (lane == 0) {
    state[kMostStepHeadDim] = most;
    state[kMostStepHeadDim + 1] = sum;
  }
  sync_block();
  if (warp == 0) {
    uint64_t* out = place_in(op.out, 0, tile.first_row + row, head * dim);
    float all = 0;
    join_warps<kMostStepHeadDim / 64, kStepWarps>(
        states, 1, 0, dim, [&](float, float x) { all = x; },
        [&](int column, float value) { send(out + column, value / all, number); });
  }
  sync_block();
}

template <typename T>
__device__ inline void attend_step(const StepCall& call, const StepOp& op, const StepTilesHere& here, uint32_t number,
                                   std::byte* scratch) {
  auto& memory = *reinterpret_cast<AttendMemory*>(scratch);
  std::byte* const behind = scratch + sizeof(AttendMemory);
  const StepTiles& tiles = call.tiles[op.tiles];
  const int kv_heads = op.layer.kv_heads;
  const Divisor of_heads(kv_heads);
  const auto blocks = static_cast<int>(gridDim.x);
  const auto block = static_cast<int>(blockIdx.x);
#pragma unroll 1
  for (int i = block; i < here.count * kv_heads; i += blocks) {
    if (i >= blocks) {
      if (threadIdx.x < sizeof(AttendTile) / 4)
        reinterpret_cast<int32_t*>(&memory.tile)[threadIdx.x] =
            reinterpret_cast<const int32_t*>(tiles.tiles + of_heads.quotient(i))[threadIdx.x];
      sync_block();
    }
    attend_tile<T>({call, op, memory, i < blocks ? here.tile : memory.tile, behind, number, of_heads.rest(i)});
  }
  int first = 0;  // block that takes the next query to be joined
#pragma unroll 1
  for (int i = 0; i < here.count;) {
    const AttendTile& tile = tiles.tiles[i];
    const int splits = tile.splits;
    i += splits;
    if (splits == 1) continue;
    const Divisor of_row(op.q_heads);
    const int queries = tile.rows * op.q_heads;
    int query = block - first;
    for (query += query < 0 ? blocks : 0; query < queries; query += blocks)
      join_splits(op, tile, of_row.quotient(query), of_row.rest(query), number, reinterpret_cast<float*>(behind));
    first = (first + queries) % blocks;
  }
}

}  // namespace edgewise::cuda
