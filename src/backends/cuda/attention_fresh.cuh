// What the rows of a step bring to attention, where a tile has all rows of its sequence: the block that attends takes
// their heads as the Linears left them, makes its own queries and lets the cache grow by what lies in its pages.
#pragma once

#include "backends/cuda/async_copy.cuh"
#include "backends/cuda/attention_tile.cuh"
#include "backends/cuda/barrier.cuh"

namespace edgewise::cuda {

// Shared memory for it. kDim: head_dim, rounded up; kWarps: at most.
template <int kDim, int kWarps>
struct FreshMemory {
  float heads[3 * kTileQueries][kDim];    // of new keys, new values, and queries, as they come
  float norms[2][kDim];                   // of queries and keys
  float keys[kWarps][kDim];               // each warp's last one
  float queries[kTileQueries][kDim + 2];  // apart by banks, as products want eight of them at once
  int32_t slots[kTileQueries];            // by row
};

template <typename T, int kDim, int kWarps>
struct FreshTile {
  const KvLayer& layer;
  const AttendCall& call;
  const AttendTile& tile;
  int kv_head;
  int group;
  FreshMemory<kDim, kWarps>& memory;
  float* angles;  // [2][rows][half] cosines and sines, in memory of its own

  __device__ int row_at(int page) const { return min(max(page * kPageSlots - tile.kv_length, 0), tile.rows); }
  // Rows whose slots lie in the tile's pages; where a history is shared out, other blocks have the others.
  __device__ int first_new() const { return row_at(tile.page_begin); }
  __device__ int new_rows() const { return row_at(tile.page_end) - first_new(); }
  __device__ int units() const { return 2 * new_rows() + tile.rows * group; }

  __device__ const float* source(int unit) const {
    const int query = unit - 2 * new_rows();
    if (query >= 0) {
      const Divisor by(group);
      const int64_t row = tile.first_row + by.quotient(query);
      return call.heads.q.x + (row * call.q_heads + kv_head * group + by.rest(query)) * layer.head_dim;
    }
    const bool is_value = unit >= new_rows();
    const int64_t row = tile.first_row + first_new() + unit - (is_value ? new_rows() : 0);
    return (is_value ? call.heads.v : call.heads.k.x) + (row * layer.kv_heads + kv_head) * layer.head_dim;
  }

  // All that memory has of it, at once. Nobody else touches a unit of a warp's.
  __device__ void bring() const {
    const int all = units();
    const int thread = static_cast<int>(threadIdx.x);
    const int threads = static_cast<int>(blockDim.x);
#pragma unroll 1
    for (int unit = thread / 32; unit < all; unit += threads / 32) {
      const float* from = source(unit);
#pragma unroll 1
      for (int i = thread % 32 * 4; i < layer.head_dim; i += 128)
        copy_word(shared_address(&memory.heads[unit][i]), from + i);
    }
    const HeadPath& q = call.heads.q;
    const HeadPath& k = call.heads.k;
    const int count = tile.rows * q.half;
    const auto copy = [&](float* to, const float* from, int floats) {
#pragma unroll 1
      for (int i = thread; i < floats; i += threads) copy_quarter_word(shared_address(to + i), from + i);
    };
    copy(angles, q.cos + tile.first_row * q.half, count);
    copy(angles + count, q.sin + tile.first_row * q.half, count);
    if (q.norm != nullptr) copy(memory.norms[0], q.norm, layer.head_dim);
    if (k.norm != nullptr) copy(memory.norms[1], k.norm, layer.head_dim);
    if (thread < tile.rows)
      copy_quarter_word(shared_address(memory.slots + thread), call.heads.slots + tile.first_row + thread);
    end_stage();
    wait_stages<0>();
  }

  // A path all of whose inputs came.
  __device__ HeadPath here(HeadPath path, float* norm) const {
    if (path.norm != nullptr) path.norm = norm;
    path.cos = angles;
    path.sin = angles + tile.rows * path.half;
    return path;
  }

  // Norms and rotations; keys and values go to the cache.
  __device__ void walk() const {
    const HeadPath q = here(call.heads.q, memory.norms[0]);
    const HeadPath k = here(call.heads.k, memory.norms[1]);
    const int warp = threadIdx.x / 32;
    const int warps = blockDim.x / 32;
    const int lane = threadIdx.x % 32;
    const int fresh = new_rows();
    const int all = units();
#pragma unroll 1
    for (int unit = warp; unit < all; unit += warps) {
      const int query = unit - 2 * fresh;
      const float* head = memory.heads[unit];
      if (query >= 0) {
        walk_path(q, head, Divisor(group).quotient(query), layer.head_dim, lane, memory.queries[query]);
        continue;
      }
      const bool is_value = unit >= fresh;
      const int row = first_new() + unit - (is_value ? fresh : 0);
      if (!is_value) {
        walk_path(k, head, row, layer.head_dim, lane, memory.keys[warp]);
        __syncwarp();
        head = memory.keys[warp];
      }
      store_head<T>(layer, is_value, memory.slots[row], kv_head, head, lane);
      __syncwarp();
    }
  }
};

}  // namespace edgewise::cuda
