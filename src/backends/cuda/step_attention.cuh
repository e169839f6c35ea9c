// Attention within the kernel of a step: a block takes a tile and key head from packets to packets, and makes the cache
// grow on its way. Pages come through shared memory, the first of them while the queries are still being made.
#pragma once

#include "backends/cuda/attention_tile.cuh"
#include "backends/cuda/step_feed.cuh"
#include "backends/cuda/step_packets.cuh"

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

// What one block does of an operator: a tile of queries, a key head.
struct TileWork {
  const StepCall& call;
  const StepOp& op;
  AttendMemory& memory;
  const AttendTile& here;
  std::byte* pages;  // behind the memory
  uint32_t number;
  int kv_head;

  __device__ const AttendTile& tile() const { return here; }
  __device__ int dim() const { return op.layer.head_dim; }
  __device__ int group() const { return op.group; }
  __device__ int queries() const { return here.rows * group(); }
  // Rows of the step whose keys the tile's pages take: from the sequence's first_new() on.
  __device__ int first_new() const { return max(0, here.page_begin * kPageSlots - here.kv_length); }
  __device__ int new_rows() const {
    const int end = here.page_end * kPageSlots - here.kv_length;
    return max(0, min(here.sequence_rows, end) - first_new());
  }
  __device__ float* states() const { return reinterpret_cast<float*>(pages); }
  template <typename T>
  __device__ T* fresh(bool is_value, int row) const {
    return reinterpret_cast<T*>(memory.fresh[is_value ? 1 : 0][row]);
  }
};

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
  constexpr int kAtOnce = 2;
#pragma unroll 1
  for (int begin = static_cast<int>(threadIdx.x); begin < all; begin += kAtOnce * kStepThreads) {
    // Places of one token in a call; here each has its own, so it stands in the column.
    int column[kAtOnce];
    uint32_t used[kAtOnce];
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
      used[i] = index >= all ? 0u : op.in.used != nullptr ? __ldg(op.in.used + at / static_cast<int>(kBlockRows)) : 1u;
    }
    receive<kAtOnce, 2>(op.in, 0, column, used, work.number - 1, sum);
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

__device__ inline float soft_tanh(float x) { return 1.0f - 2.0f / (1.0f + __expf(2.0f * x)); }

// A warp's softmax: 16 tokens of each page, and half of the columns of their values.
template <typename T>
struct WarpSoftmax {
  static constexpr bool kBF16 = Cache<T>::kBF16;
  static constexpr bool kScaled = Cache<T>::kScaled;
  float largest[2] = {-INFINITY, -INFINITY};
  float sum[2] = {};
  float values[8][4] = {};
  RowView rows[2];

  __device__ void add_page(const TileWork& work, const AttendRule& rule, int page, const std::byte* rows_of_page) {
    const int lane = threadIdx.x % 32;
    const int g = lane / 4;
    const int t = lane % 4;
    const int token = static_cast<int>(threadIdx.x / 32) % kTokenGroups * 16;
    const int half = static_cast<int>(threadIdx.x / 32) / kTokenGroups;
    const int dim = work.dim();
    const int stride = page_row_bytes(dim, sizeof(T));
    const int64_t head =
        (static_cast<int64_t>(page_of(rule.tile, rule.pages, page)) * work.op.layer.kv_heads + work.kv_head) *
        kPageSlots;
    using Word = typename Eight<T>::Word;
    const auto load = [&](int row, int column, uint32_t(&to)[4]) {
      const auto* from = reinterpret_cast<const Word*>(rows_of_page + row * stride + column * sizeof(T));
      unpack_eight<T>(column < dim ? *from : Word{}, to);
    };
    // Column c of the two tiles of scores is token c / 2 * 4 + c % 2, and that + 2: where the other product wants it.
    float scores[2][4] = {};
    float low_scores[2][4] = {};
#pragma unroll 1
    for (int step = 0; step < (dim + 31) / 32; ++step) {
      uint32_t key[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) load(token + g / 2 * 4 + g % 2 + i * 2, step * 32 + t * 8, key[i]);
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const uint4 high = work.memory.q[0][step * 2 + part][lane];
        const uint4 low = work.memory.q[1][step * 2 + part][lane];
        const uint32_t a[4] = {high.x, high.y, high.z, high.w};
        const uint32_t b[4] = {low.x, low.y, low.z, low.w};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          multiply_tile<kBF16>(scores[i], a, key[i][2 * part], key[i][2 * part + 1]);
          multiply_tile<kBF16>(low_scores[i], b, key[i][2 * part], key[i][2 * part + 1]);
        }
      }
    }
    float now[2] = {largest[0], largest[1]};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int of_two = i / 4;
      const int slot = token + t * 4 + of_two * 2 + i % 2;
      float score = scores[of_two][i % 4] + low_scores[of_two][i % 4] * (1.0f / kLowFactor<kBF16>);
      if constexpr (kScaled) score *= __ldcg(work.op.layer.key_scales + head + slot);
      scores[of_two][i % 4] = score;
    }
    if (rule.softcap > 0) {
#pragma unroll
      for (int i = 0; i < 8; ++i) scores[i / 4][i % 4] = rule.softcap * soft_tanh(scores[i / 4][i % 4] / rule.softcap);
    }
    const int first_slot = page * kPageSlots + token + t * 4;
    if (rule.tile->tree_begin != INT_MAX) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (!sees(rows[i % 4 / 2], rule.tile->tree_begin, first_slot + i / 4 * 2 + i % 2)) scores[i / 4][i % 4] = -INFINITY;
      }
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int slot = first_slot + i / 4 * 2 + i % 2;
        if (slot > rows[i % 4 / 2].position || slot < rows[i % 4 / 2].oldest) scores[i / 4][i % 4] = -INFINITY;
      }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) now[i % 4 / 2] = fmaxf(now[i % 4 / 2], scores[i / 4][i % 4]);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      now[r] = fmaxf(now[r], __shfl_xor_sync(~0u, now[r], 1));
      now[r] = fmaxf(now[r], __shfl_xor_sync(~0u, now[r], 2));
      const float shrink = now[r] == -INFINITY ? 1.0f : __expf(largest[r] - now[r]);
      largest[r] = now[r];
      sum[r] *= shrink;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        values[i][2 * r] *= shrink;
        values[i][2 * r + 1] *= shrink;
      }
    }
    // Weights of tokens as operands: what is high, and what is low, which needs no factor since weights are 1 at most.
    uint32_t high[4], low[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      float pair[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float score = scores[r / 2][r % 2 * 2 + j];
        pair[j] = score == -INFINITY ? 0.0f : __expf(score - largest[r % 2]);
        sum[r % 2] += pair[j];
        if constexpr (kScaled) pair[j] *= __ldcg(work.op.layer.value_scales + head + token + t * 4 + r / 2 * 2 + j);
      }
      split_weights(pair, high[r], low[r]);
    }
    uint32_t v[4][4];  // four tokens of eight neighbouring columns
#pragma unroll
    for (int j = 0; j < 4; ++j) load(kPageSlots + token + t * 4 + j, half * 64 + g * 8, v[j]);
    // Joined two by two. Column g of tile i is column g * 8 + i.
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint32_t select = i % 2 == 0 ? 0x5410 : 0x7632;
      const uint32_t b0 = __byte_perm(v[0][i / 2], v[1][i / 2], select);
      const uint32_t b1 = __byte_perm(v[2][i / 2], v[3][i / 2], select);
      multiply_tile<kBF16>(values[i], high, b0, b1);
      multiply_tile<kBF16>(values[i], low, b0, b1);
    }
  }

  __device__ static void split_weights(const float (&pair)[2], uint32_t& high, uint32_t& low) {
    if constexpr (kBF16) {
      split_pair<true>(pair[0], pair[1], high, low);
    } else {
      const __half2 h = __floats2half2_rn(pair[0], pair[1]);
      const float2 back = __half22float2(h);
      high = bits_of(h);
      low = bits_of(__floats2half2_rn(pair[0] - back.x, pair[1] - back.y));
    }
  }

  // [group of tokens][query][kMostStepHeadDim + 2]
  __device__ void leave(float* states, int queries) {
    const int lane = threadIdx.x % 32;
    const int g = lane / 4;
    const int t = lane % 4;
    const int group = static_cast<int>(threadIdx.x / 32) % kTokenGroups;
    const int half = static_cast<int>(threadIdx.x / 32) / kTokenGroups;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
      sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
      if (g + 8 * r >= queries) continue;
      float* state = states + (group * queries + g + 8 * r) * (kMostStepHeadDim + 2);
      if (t == 0 && half == 0) {
        state[kMostStepHeadDim] = largest[r];
        state[kMostStepHeadDim + 1] = sum[r];
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {  // columns 2t and 2t + 1 of tile i
        state[half * 64 + 2 * t * 8 + i] = values[i][2 * r];
        state[half * 64 + (2 * t + 1) * 8 + i] = values[i][2 * r + 1];
      }
    }
  }
};

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

template <typename T>
__device__ inline void attend_tile(const TileWork& work) {
  const AttendTile& tile = work.tile();
  const AttendRule rule{work.op.softcap, work.op.window, work.group(), work.call.positions, work.call.masks, &tile,
                        work.call.pages};
  bring_near(work);
  WarpSoftmax<T> softmax;
  int oldest = look_at_rows(rule, tile, threadIdx.x % 32 / 4, softmax.rows);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) oldest = min(oldest, __shfl_xor_sync(~0u, oldest, offset));
  const int first = max(tile.page_begin, max(oldest, 0) / kPageSlots);  // that any row looks at
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
  __syncthreads();
  walk_heads<T>(work);
  __syncthreads();
  stage_queries<Cache<T>::kBF16, AttendMemory::kSteps>(
      work.memory.q[0], work.memory.q[1], work.queries(), work.dim(), work.op.scale, [&](int query, int column) {
        return *reinterpret_cast<const float2*>(&work.memory.queries[query][column]);
      });
#pragma unroll 1
  for (int page = first; page < tile.page_end; ++page) {
    if (turns > 1)
      wait_groups<1>();
    else
      wait_groups<0>();
    __syncthreads();
    patch_page<T>(work, page, place(page));
    __syncthreads();
    softmax.add_page(work, rule, page, place(page));
    __syncthreads();
    ask(page + turns);
  }
  softmax.leave(work.states(), work.queries());
  __syncthreads();
  send_heads(work);
  __syncthreads();
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
  __syncthreads();
  if (warp == 0) {
    uint64_t* out = place_in(op.out, 0, tile.first_row + row, head * dim);
    float all = 0;
    join_warps<kMostStepHeadDim / 64, kStepWarps>(
        states, 1, 0, dim, [&](float, float x) { all = x; },
        [&](int column, float value) { send(out + column, value / all, number); });
  }
  __syncthreads();
}

__device__ inline void attend_typed(const TileWork& work) {
  switch (work.op.layer.type) {
    case KvType::kF16:
      return attend_tile<__half>(work);
    case KvType::kInt8:
      return attend_tile<int8_t>(work);
    case KvType::kF8:
      return attend_tile<__nv_fp8_e4m3>(work);
    default:
      return attend_tile<__nv_bfloat16>(work);
  }
}

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
      __syncthreads();
    }
    attend_typed({call, op, memory, i < blocks ? here.tile : memory.tile, behind, number, of_heads.rest(i)});
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
