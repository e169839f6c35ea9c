// A step of up to four tokens as one kernel that stays: what it is told of the model, and what it is told each step.
//
// A block of threads lives on each multiprocessor and runs a list of operators with the others. Each of its warps has a
// fixed share of every matrix, so which weights it will want is known for the whole step: one more warp keeps them
// coming, across operators, through a ring in shared memory for each. Activations travel between multiprocessors as
// packets: a value and the number of the operator and step that made it in one word of 64 bits. Whoever needs them
// looks until the number is right. There is no barrier across the chip and no fence.
#pragma once

#include <cstddef>

#include "backends/cuda/attention_kernels.h"
#include "backends/cuda/encoding.h"
#include "backends/cuda/kernels.h"

namespace edgewise::cuda {

inline constexpr int kStepWarps = 11;  // and the one that feeds them: 12 have 168 registers a thread
inline constexpr int kStepThreads = kStepWarps * 32;
inline constexpr int kBlockThreads = kStepThreads + 32;
// Bytes of a stage of a warp's ring; smaller ones would come no faster than the feeding warp can ask for them.
inline constexpr int kStageWeights = 4096;
inline constexpr int kMostStageBytes = kStageWeights + 512;  // with their scales
inline constexpr int kMostStepHeadDim = 128;
inline constexpr size_t kMostStepShared = 223 << 10;  // bytes a block asks for, beside
inline constexpr size_t kStaticStepShared = 4 << 10;  // what it has anyway
inline constexpr int kMostRingDepth = 6;
inline constexpr int kMostShapes = 12;
inline constexpr int kMostStepParts = 3;
inline constexpr int kMostStepTiles = 2;

// The matrices of a Linear, and how they are shared out. Blocks of 16 rows of all parts are numbered one after another,
// or, where two parts are gate and up of the same activation, in turns.
struct StepShape {
  Encoding encoding = Encoding::kF32;
  Scaling scaling = Scaling::kRow;
  bool zeros = false;
  bool paired = false;
  bool even_scales = false;  // a scale covers pairs of chunks, from the first two on
  int32_t blocks = 0;
  int32_t chunks = 0;  // of a block
  int32_t chunk_bytes = 0;
  int32_t stage_chunks = 0;  // that fit a stage
  int32_t scale_columns = 0;
  uint32_t scale_magic = 0;                  // as in DecodeCall
  int32_t first_block[kMostStepParts] = {};  // of each part; where there is none, more than there are
  int32_t rows[kMostStepParts] = {};         // n
  uint32_t scales_at[kMostStepParts] = {};   // in units of 256 bytes behind the weights
  uint32_t zeros_at[kMostStepParts] = {};
  uint32_t factors_at[kMostStepParts] = {};
};

// What one multiprocessor does of a shape: a slice of the columns, and in it a range of chunks, block after block,
// handed out to its warps. Sums of a block that several multiprocessors contribute to go to a slot each.
struct StepShare {
  uint32_t warps[kStepWarps + 1] = {};  // where their ranges begin
  int32_t first[kStepWarps] = {};       // and their blocks
  int32_t chunk_begin = 0;              // of the slice
  int32_t chunk_end = 0;
  int32_t blocks = 0;
  int32_t parts_at = 0;  // of its BlockParts
};

// What a multiprocessor adds to a block: `count` warps from `first` on have contributed; the block is the first one's
// block number `index`, and the first of the others.
struct BlockPart {
  uint8_t first = 0;
  uint8_t count = 0;
  uint8_t index = 0;
  uint8_t slot = 0;  // of the result
};

// [slots][kMostDecodeTokens][columns] words: a float32 below, its number above.
struct Packets {
  uint64_t* words = nullptr;
  int32_t counts_at = -1;  // [columns / 16] slots to add up, in the table of all counts; -1: one of each
  int32_t columns = 0;
  int32_t most_slots = 1;
};

struct alignas(16) StepOp {
  bool is_attention = false;
  bool of_rows = false;   // runs for rows that want logits
  bool residual = false;  // adds what `keep` of the operator before has kept
  int32_t shape = 0;
  int32_t keep = -1;             // shape of the next operator with a residual: its blocks' columns of x are kept
  Source gate = Source::kPlain;  // of paired parts
  int32_t k = 0;
  float epsilon = 0;
  const float* norm = nullptr;       // [k]; RMSNorm of x
  const float* next_norm = nullptr;  // of the next operator, to be on its way
  int32_t next_k = 0;
  const float* x = nullptr;  // [N, k], or
  Packets in;
  float* result = nullptr;  // [rows, n], or
  Packets out;
  const std::byte* parts[kMostStepParts] = {};
  const float* bias[kMostStepParts] = {};
  // Attention: q, k and v lie side by side in `in`, from these columns on.
  int32_t columns[3] = {};
  int32_t tiles = 0;  // which of the step's
  int32_t q_heads = 0;
  int32_t group = 1;  // query heads a key head
  int32_t window = 0;
  float scale = 0;
  float softcap = 0;
  KvLayer layer;
  HeadPath q_path;
  HeadPath k_path;
  uint64_t* partial = nullptr;  // [splits][kMostDecodeTokens][q_heads][head_dim + 2] packets
};

// How x becomes an operand: two columns a token of 16-bit floats, or, where weights are integers, its digits.
enum class Operand { kBF16, kF16, kDigits };
constexpr Operand operand_of(const StepShape& shape) {
  const bool integer = shape.encoding == Encoding::kInt8 || shape.encoding == Encoding::kInt4;
  if (integer && shape.scaling != Scaling::kLanes) return Operand::kDigits;
  return shape.encoding == Encoding::kBF16 ? Operand::kBF16 : Operand::kF16;
}

// Columns that share a unit as digits: a warp's, which are two chunks.
inline constexpr int kDigitBlock = 128;
inline constexpr int kDigits = 3;
inline constexpr int kPad = 8;  // halves behind a column of a 16-bit operand; spreads operand loads over the banks
constexpr int digit_blocks(int columns) { return (columns + kDigitBlock - 1) / kDigitBlock; }
// Bytes of a digit of a row; half a block more spreads operand loads over the banks.
constexpr int digit_stride(int columns) { return digit_blocks(columns) * kDigitBlock + kDigitBlock / 2; }
// Shared memory of x, digits with units and sums of chunks, or 16-bit operands.
constexpr size_t x_bytes(int columns, int rows) {
  const int digits = kDigits * digit_stride(columns) + digit_blocks(columns) * 3 * static_cast<int>(sizeof(float));
  const int halves = 2 * (columns + kPad) * static_cast<int>(sizeof(uint16_t));
  return static_cast<size_t>(rows * (digits > halves ? digits : halves));
}

// Where a Linear's weights lie.
struct StepLinear {
  const std::byte* parts[kMostStepParts] = {};
  int32_t shape = 0;
};

struct StepTiles {
  const AttendTile* tiles = nullptr;
  const int32_t* count = nullptr;
};

inline constexpr int kMostQueries = 16;
inline constexpr int kTokenGroups = 4;  // warps that share out a page's tokens
inline constexpr int kMostPageTurns = 2;
inline constexpr int kStateFloats = kMostStepHeadDim + 4;  // of a query: attention_tile.cuh

// Shared memory of attention. Behind it come the pages, or when they are done with, the states of warps.
struct alignas(128) AttendMemory {
  static constexpr int kSteps = kMostStepHeadDim / 32;
  float norms[2][kMostStepHeadDim];  // of queries and keys
  float angles[2][kMostDecodeTokens * kMostStepHeadDim / 2];
  union {
    float heads[kMostQueries + 2 * kMostDecodeTokens][kMostStepHeadDim];  // as they come: queries, keys, values
    uint4 q[2][kSteps * 2][32];                                           // operands, high and low
  };
  float queries[kMostQueries][kMostStepHeadDim];
  float keys[kMostDecodeTokens][kMostStepHeadDim];
  std::byte fresh[2][kMostDecodeTokens][kMostStepHeadDim * 2];  // keys and values as the cache has them
  AttendTile tile;
};
// A page's head in shared memory: rows of keys, then of values, a word of 16 bytes apart.
constexpr int page_row_bytes(int head_dim, int value_bytes) { return head_dim * value_bytes + 16; }
constexpr size_t attend_memory_bytes(int queries, int head_dim, int value_bytes, int page_turns) {
  const size_t pages = static_cast<size_t>(page_turns * 2 * 64 * page_row_bytes(head_dim, value_bytes));
  const size_t state_bytes = sizeof(float) * static_cast<size_t>(page_turns * kTokenGroups * queries * kStateFloats);
  return sizeof(AttendMemory) + (state_bytes > pages ? state_bytes : pages);
}

struct StepCall {
  const StepOp* ops = nullptr;
  int op_count = 0;
  int numbers = 0;                      // that a step uses, odd: so that they come back after 2^32 steps only
  const StepLinear* linears = nullptr;  // those among the operators, in their order
  int linear_count = 0;
  const StepShare* shares = nullptr;  // [shapes][multiprocessors]
  int shape_count = 0;
  const BlockPart* block_parts = nullptr;
  const uint8_t* slot_counts = nullptr;  // of all packets
  int slot_count_bytes = 0;              // a multiple of 4
  int tokens = 0;
  int rows = 0;
  const int32_t* logits_rows = nullptr;
  const int32_t* positions = nullptr;
  const int32_t* slots = nullptr;
  const uint64_t* masks = nullptr;
  const int32_t* pages = nullptr;
  const uint32_t* number = nullptr;  // of the step, from 1
  StepTiles tiles[kMostStepTiles];
  int kv_heads[kMostStepTiles] = {};  // of operators with them
  KvType kv_type = KvType::kBF16;
  int page_turns = 1;  // pages in shared memory at once: kMostPageTurns where a tile has several
  // Shared memory, in bytes: the ring comes first.
  int ring_depth = 0;
  int stage_bytes = 0;
  int scratch_at = 0;  // x, or what attention needs
  int sums_at = 0;
  int kept_at = 0;
  int linears_at = 0;
  int slot_counts_at = 0;
  int shared_bytes = 0;
  int most_sums = 0;  // blocks of a warp
  int most_rows = 0;  // the larger of tokens and rows
  int kept_columns = 0;
  StepShape shapes[kMostShapes];
};
// False when it could not be launched.
bool run_step(cudaStream_t stream, const StepCall& call, int multiprocessors);

}  // namespace edgewise::cuda
