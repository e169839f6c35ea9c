// The kernels of attention and of the cache as host code calls them; as in kernels.h, launches return at once.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace edgewise::cuda {

enum class KvType : int { kF32, kF16, kBF16, kInt8, kF8 };

// One layer's pages: keys and values [page][kv_head][64][head_dim], for scaled types with scales
// [page][kv_head][64].
struct KvLayer {
  void* keys = nullptr;
  void* values = nullptr;
  float* key_scales = nullptr;
  float* value_scales = nullptr;
  KvType type = KvType::kBF16;
  int kv_heads = 0;
  int head_dim = 0;
};

// Where the rows of a step put their keys and values: [N] of page * 64 + slot.
void append_kv(cudaStream_t stream, const KvLayer& layer, const float* k, const float* v, const int32_t* slots,
               int rows);

// A head's way from its Linear: a norm over the head, and a rotation; either may be missing.
struct HeadPath {
  const float* x = nullptr;  // [N, heads * head_dim]
  int heads = 0;
  const float* norm = nullptr;  // [head_dim]
  float epsilon = 0;
  const float* cos = nullptr;  // [N, half]
  const float* sin = nullptr;
  int half = 0;
  bool interleaved = false;
};
// The heads of a step as their Linears left them.
struct FreshHeads {
  HeadPath q, k;
  const float* v = nullptr;        // [N, kv_heads * head_dim]
  const int32_t* slots = nullptr;  // [N] as for append_kv()
};
// Queries to q_out [N, heads * head_dim], keys and values to the cache.
void prepare_heads(cudaStream_t stream, const KvLayer& layer, const FreshHeads& heads, int rows, float* q_out);

// Some rows of a sequence, and the pages of its table they look at. Tiles of the same rows share a `group`; when there
// are several, each leaves its state for merge.
struct alignas(16) AttendTile {
  int32_t first_row = 0;  // of the step
  int32_t rows = 0;
  int32_t page_table = 0;  // where the sequence's begins
  int32_t page_begin = 0;
  int32_t page_end = 0;
  int32_t position = 0;    // of the first row, where rows are a chain
  int32_t tree_begin = 0;  // slots from here on are a row's ancestors only, by its mask; INT32_MAX: no tree
  int32_t slot = 0;        // of its partial state
  int32_t first_slot = 0;  // of the group's
  int32_t splits = 1;      // of the group
  // Its sequence's rows of the step, and where the first one's keys go.
  int32_t sequence_row = 0;
  int32_t sequence_rows = 0;
  int32_t kv_length = 0;
  // The first of the pages, to spare kernels a look at the table.
  static constexpr int kPagesHere = 11;
  int32_t pages[kPagesHere] = {};
};

// The state of a query where several blocks share its history: [head_dim] values, the largest score, the sum, and
// what aligns the next one.
constexpr int partial_floats(int head_dim) { return (head_dim + 5) / 4 * 4; }

struct AttendCall {
  const float* q = nullptr;  // [N, q_heads * head_dim]
  // With slots: attend() does what prepare_heads() does, and needs no `q`. For layers of which
  // attends_on_tensor_cores() is true and paths of the same angles, where a tile has all rows of its sequence.
  FreshHeads heads;
  float* out = nullptr;
  const AttendTile* tiles = nullptr;
  const int32_t* tile_count = nullptr;
  int most_tiles = 0;
  int tile_rows = 0;               // most rows of a tile
  const int32_t* pages = nullptr;  // page tables
  const int32_t* positions = nullptr;
  const uint64_t* masks = nullptr;  // [N]
  float* partial = nullptr;         // [slots][q_heads][tile_rows][partial_floats(head_dim)]
  int32_t* arrived = nullptr;       // [slots, kv_heads] zeros, and zeros again behind
  int q_heads = 0;
  float scale = 0;
  float softcap = 0;
  int window = 0;
};
void attend(cudaStream_t stream, const KvLayer& layer, const AttendCall& call);
// attention_mma.cu: its part of attend() where it can.
bool attends_on_tensor_cores(const KvLayer& layer);
void attend_mma(cudaStream_t stream, const KvLayer& layer, const AttendCall& call);

// ---- attention_prompt.cu: many rows of a sequence that form a chain

// Queries of a tile, rows times the query heads of a key head.
constexpr int prompt_queries(int head_dim) { return head_dim > 128 ? 64 : 128; }

struct PromptTile {
  int32_t first_row = 0;  // of the step
  int32_t rows = 0;
  int32_t page_table = 0;  // where the sequence's begins
  int32_t position = 0;    // of the first row
};
// `tiles` take the place of those of the call. For layers of which attends_on_tensor_cores() is true.
void attend_prompts(cudaStream_t stream, const KvLayer& layer, const AttendCall& call, const PromptTile* tiles,
                    int count);

struct DeviceSlotCopy {
  int32_t from;  // page * 64 + slot
  int32_t to;
};
void copy_kv_slots(cudaStream_t stream, const KvLayer& layer, const DeviceSlotCopy* copies, int count);

}  // namespace edgewise::cuda
