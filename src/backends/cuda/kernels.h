// The kernels as host code calls them, but for attention (attention_kernels.h). Each launch goes to a stream and
// returns at once; activations are float32 [rows, columns] on the device unless something else is said.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace edgewise {
struct LogitChange;
}

namespace edgewise::cuda {

// ---- linear_stream.cu: weights as layout.h describes them, one look at each of them for up to 64 columns

// One packed matrix [n, k] and where its product goes.
struct StreamPart {
  const uint4* weights = nullptr;
  const float* factors = nullptr;  // [n]
  const void* scales = nullptr;
  const void* zeros = nullptr;
  const float* bias = nullptr;  // [n] or null
  float* out = nullptr;         // [tokens, n]
  int n = 0;
  int first_block = 0;  // of the launch's, on which it begins
};

inline constexpr int kMostParts = 4;

// Which tokens go to which expert of a mixture: pairs (token, expert) in the order of the experts.
struct ExpertLists {
  int32_t* count = nullptr;    // of experts that are chosen by some token
  int32_t* experts = nullptr;  // [count] their numbers
  int32_t* begin = nullptr;    // [count + 1] of their pairs
  int32_t* tokens = nullptr;   // [pairs]
  int32_t* pair_of = nullptr;  // [N, E]
};

struct StreamCall {
  StreamPart parts[kMostParts];
  int part_count = 0;
  int blocks = 0;         // of 16 rows, in all parts
  int chunks = 0;         // of 64 columns
  int scale_columns = 0;  // scales of a row
  int block = 0;          // columns of a scale
  bool zeros = false;
  const uint16_t* x = nullptr;     // [tokens * copies, chunks * 64], as prepare_rows() makes it
  const float* x_scale = nullptr;  // [tokens]
  int tokens = 0;
  // For a stack of matrices: each expert's rows of x are those of its tokens, or with `by_pair` those of its pairs;
  // rows of `out` are pairs. `tokens` is how many an expert takes at a time.
  ExpertLists lists;
  int most_experts = 0;  // chosen at once; 0: one matrix for all
  bool by_pair = false;
  int64_t stack_bytes = 0;  // from one expert's matrix to the next one's
};

// Activations for the tensor cores. bf16 weights: two bf16 numbers whose sum is x, a row each, so that a product is
// almost as exact as in float32; or one, where tokens are many. Others: one f16 row, divided by a power of two where it
// would not be in range, or by what makes it integers up to 127 for weights that say so.
enum class Activation : int { kBF16Pair, kBF16, kF16, kInt8 };

// What rows of x are made of.
enum class Source : int { kPlain, kNormed, kSwiGlu, kGeGlu, kGeGluTanh };
constexpr bool is_gated(Source source) { return source >= Source::kSwiGlu; }
struct RowSource {
  const float* x = nullptr;   // [rows, k]; the gate of gated sources
  const float* up = nullptr;  // [rows, k]
  Source source = Source::kPlain;
  const float* norm = nullptr;  // [k] weights of RMSNorm
  float epsilon = 0;
};
// prepare_rows.cu. Of each 64 columns the 16-byte words stand in the order 0, 2, 4, 6, 1, 3, 5, 7, in which lanes of an
// operand take them. Clears `arrived` [tiles] too, for a batch_linear() behind it.
void prepare_rows(cudaStream_t stream, const RowSource& source, int rows, int k, int k_padded, Activation kind,
                  uint16_t* to, float* scale, int32_t* arrived = nullptr, int tiles = 0);

// `encoding` and `scaling` are those of layout.h, but for f32.
void stream_linear(cudaStream_t stream, int encoding, int scaling, const StreamCall& call);

// ---- linear_batch.cu: five rows of x and more

inline constexpr int kBatchRows = 128;       // of the matrix, in a tile
inline constexpr int kBatchColumns = 128;    // of x, at most
inline constexpr int kBatchSharedTiles = 4;  // a multiprocessor: where there are fewer, blocks share tiles
// Up to here a token's product does not depend on how many there are.
inline constexpr int kMostBatchTokens = 64;

// Whether linear_group.cu is used where it can be; tests look at what other GPUs run too.
inline bool groups_allowed = true;
// How it shares out a matrix's columns: to blocks of a cluster, and to warpgroups of each.
struct GroupShape {
  int ranks = 0;
  int ways = 1;
};

struct BatchCall {
  StreamCall matrix;  // its lists are not used
  int copies = 1;     // rows of x a token, 2 for kBF16Pair
  int multiprocessors = 0;
  GroupShape group;          // without ranks: a kernel of linear_batch.cu
  unsigned scale_magic = 0;  // as in DecodeCall
  // [tokens, n], added to the product of the only part, or null.
  const float* residual = nullptr;
  float* partials = nullptr;   // [2 * multiprocessors][kBatchRows * kBatchColumns]
  int32_t* arrived = nullptr;  // [tiles] zeros
  int column_tiles = 0;        // chosen at launch
};
constexpr int batch_row_tiles(int blocks) { return (blocks * 16 + kBatchRows - 1) / kBatchRows; }
// `encoding` and `scaling` are those of layout.h, but for f32.
void batch_linear(cudaStream_t stream, int encoding, int scaling, const BatchCall& call);
// linear_group.cu: its part of batch_linear(), for up to kMostBatchTokens tokens on compute capability 9.0. x is
// [chunks][group_columns()][64], as prepare_columns() makes it.
void group_linear(cudaStream_t stream, int encoding, int scaling, const BatchCall& call);
// Columns of x that a kernel has for so many tokens, a power of two.
int group_columns(int tokens, int copies);
// Whether so many columns are multiplied by warps ("mma"), for which their words lie as lanes want them, or by
// warpgroups ("wgmma").
constexpr bool by_warps(int columns) { return columns <= 16; }
// prepare_columns.cu: what prepare_rows() is for others, of so many columns.
void prepare_columns(cudaStream_t stream, const RowSource& source, int rows, int k, int k_padded, Activation kind,
                     uint16_t* to, float* scale, int columns);
// For matrices of `blocks` times 16 rows and `chunks` times 64 columns.
GroupShape choose_group_shape(int blocks, int chunks, int multiprocessors);

// ---- linear_dense.cu: around a library's product of many rows

// Weights of the only part, rows [blocks * 16, chunks * 64] of f16 (bf16 for bf16), zero points and scales in them, in
// the order of columns in which prepare_rows() puts x.
struct UnpackCall {
  StreamCall matrix;  // its activations are not used
  int first_block = 0;
  int blocks = 0;
  float factor = 1;    // multiplies all weights but 16-bit ones, which are as they are
  bool codes = false;  // scales are left out: integers
  uint16_t* to = nullptr;
};
void unpack_weights(cudaStream_t stream, int encoding, int scaling, const UnpackCall& call);
// out [rows, n] times x_scale [rows] and factors [n] or null, plus bias [n] or null. Rows that stay are not touched.
void finish_rows(cudaStream_t stream, float* out, int rows, int n, const float* x_scale, const float* factors,
                 const float* bias);

// ---- linear_decode.cu: up to four rows of x, with what stands before and behind the product

inline constexpr int kMostDecodeTokens = 4;

struct DecodeCall {
  StreamCall matrix;  // its x, x_scale and lists are not used
  RowSource source;
  int k = 0;                        // columns of x, a multiple of 4
  const float* residual = nullptr;  // [tokens, n], added to the product of the only part
  unsigned scale_magic = 0;         // 2^20 / the chunks, or 16s of columns, of a scale, rounded up
  int ranks = 1;                    // blocks that share out the columns of 16 rows
  int slots = 1;                    // blocks that stay and take rows after one another
  int segment = 0;                  // columns of x in shared memory; chosen at launch
};
inline constexpr int kDecodeBlocks = 4;  // on a multiprocessor
// How many blocks had best share out the columns of 16 rows, where the GPU can join them.
int choose_decode_ranks(int blocks, int chunks, int multiprocessors, bool clusters);
// `encoding` and `scaling` are those of layout.h, but for f32.
void decode_linear(cudaStream_t stream, int encoding, int scaling, const DecodeCall& call);

// f32 weights [blocks * 16, chunks * 64] and the activations themselves, [tokens, k].
void float_linear(cudaStream_t stream, const StreamCall& call, const float* x, int k);

// ---- row_ops.cu

enum class Unary : int { kSilu, kGelu, kGeluTanh, kRelu, kSquare, kSoftcap, kScale };
enum class Binary : int { kAdd, kMul, kSwiGlu, kGeGlu, kGeGluTanh };

// `type`: 0 f32, 1 f16, 2 bf16
void embed_rows(cudaStream_t stream, const int32_t* tokens, const void* table, int type, int rows, int columns,
                int vocabulary, float* out);
void rms_norm_rows(cudaStream_t stream, const float* x, const float* weight, int runs, int d, float epsilon,
                   float* out);
// out_sum = a + b, out = its norm.
void add_rms_norm_rows(cudaStream_t stream, const float* a, const float* b, const float* weight, int runs, int d,
                       float epsilon, float* out_sum, float* out);
void layer_norm_rows(cudaStream_t stream, const float* x, const float* weight, const float* bias, int runs, int d,
                     float epsilon, float* out);
// `context` [N] is the length of each row's sequence; long_freq may be null.
struct RotaryTable {
  const float* freq = nullptr;
  const float* long_freq = nullptr;
  int half = 0;
  int threshold = 0;
  float scale = 1;
  float long_scale = 1;
};
void rotary_table_rows(cudaStream_t stream, const int32_t* positions, const int32_t* context, const RotaryTable& table,
                       int rows, float* cos, float* sin);
void rotary_rows(cudaStream_t stream, const float* x, const float* cos, const float* sin, int rows, int columns,
                 int head_dim, int half, bool interleaved, float* out);
void unary_values(cudaStream_t stream, Unary op, float parameter, const float* x, int64_t count, float* out);
// b is [rows, columns], or [columns] with `broadcast`.
void binary_values(cudaStream_t stream, Binary op, const float* a, const float* b, bool broadcast, int64_t rows,
                   int64_t columns, float* out);
void gather_columns(cudaStream_t stream, const float* x, const int32_t* index, int rows, int columns, int count,
                    float* out);
void copy_columns(cudaStream_t stream, const float* x, int rows, int columns, float* out, int out_columns, int first);
void select_rows(cudaStream_t stream, const float* x, const int32_t* rows, int count, int columns, float* out);

// Reads memory from end to end and does nothing with it, to find out how fast that goes.
void read_all(cudaStream_t stream, const void* memory, size_t bytes);

// ---- step_io.cu, between pinned memory of the host and the device

// In words of 16 bytes.
struct FetchRange {
  uint32_t begin = 0;
  uint32_t end = 0;
};
// Copies ranges of `host` to the same places on the device.
void fetch(cudaStream_t stream, const void* host, const FetchRange* ranges, int count, void* device);

// How a row's token is found: what RowDraw (backends/draw.h) says, as kernels want it. By itself: the largest logit.
struct DrawRow {
  float inverse = 0;  // 0: nothing is to be drawn
  float floor = 0;
  int32_t most = 0;
  int32_t first_change = 0;  // of the step's
  double top_p = 1;
  double uniform = 0;
  int32_t change_count = 0;
  int32_t first_word = 0;  // of the masks
  int32_t words = 0;       // of 64 tokens each, which may be chosen where the bit is set, as may those behind them
  bool later = false;      // not in this launch
};
// What finding a row's token takes: zeros, but for what best_rows() leaves in `index` and `logit`.
struct RowChoice {
  unsigned long long key = 0;
  unsigned arrived = 0;
  int32_t index = 0;
  float logit = 0;
};
// Changes logits as their rows ask for it, and makes those that may not be chosen minus infinity. Then the index of
// each row's largest one, the first of equals, to `tokens` [rows] in pinned memory, or, for rows that draw, to
// `choices` [rows]. Numbers that are none count for nothing.
void best_rows(cudaStream_t stream, float* logits, int rows, int columns, const DrawRow* draws,
               const LogitChange* changes, const uint64_t* masks, RowChoice* choices, int32_t* tokens);

// ---- draw.cu

// The tokens of rows that draw to `tokens` [rows] in pinned memory; their logits are lost. `choices` as best_rows()
// leaves it; `scratch` [rows][draw_bytes(columns)]: zeros, and zeros again behind, as far as that matters.
void draw_rows(cudaStream_t stream, float* logits, int rows, int columns, int multiprocessors, const DrawRow* draws,
               const RowChoice* choices, void* scratch, int32_t* tokens);
size_t draw_bytes(int columns);

// ---- low_rank.cu, for the rows of sequences with an adapter

// What adapters add to one output of one Linear, by their slot on the device; null where nothing.
struct LowRankPart {
  const float* a = nullptr;  // [rank, k]
  const float* b = nullptr;  // [n, rank]
  float scale = 1;
  int rank = 0;
};
// `adapters` [slots]; row_adapter [rows] is a slot or -1; hidden [rows, most_rank] is scratch.
void add_low_rank(cudaStream_t stream, const LowRankPart* adapters, const int32_t* row_adapter, const float* x,
                  int rows, int k, int n, int most_rank, float* hidden, float* out);

// ---- moe.cu

// `routing` [rows, experts] is zero but where an expert is chosen.
void list_experts(cudaStream_t stream, const float* routing, int rows, int experts, const ExpertLists& lists);
// out[token] = the sum of its pairs' rows, weighted, in the order of experts.
void combine_experts(cudaStream_t stream, const float* pairs, const float* routing, const int32_t* pair_of, int rows,
                     int experts, int columns, float* out);

void route_rows(cudaStream_t stream, const float* logits, int rows, int experts, int top_k, bool softmax_before,
                bool normalize, float* out);

}  // namespace edgewise::cuda
