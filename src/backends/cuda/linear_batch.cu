// Products of 5 tokens and more on tensor cores: weights and activations come through shared memory, several steps
// ahead (the idea of MARLIN, arXiv 2408.11743: packed weights travel as they are and become operands in registers).
//
// A tile of the product is 128 rows of the matrix and up to 128 columns; a step is one chunk of 16-bit weights, or two
// of smaller ones. With few columns one block of threads stays on each multiprocessor and all of them share out the
// steps of all tiles evenly; what several blocks have of one tile is added up by the last of them, in the order of the
// columns. So how sums are taken depends on the matrix alone, and a token's result does not depend on its company.
#include "backends/cuda/device_code.cuh"
#include "backends/cuda/kernels.h"
#include "backends/cuda/stream_weights.cuh"

namespace edgewise::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kRowBlocks = 8;  // of 16 rows, in a tile: each warp loads one
constexpr int kMostStages = 8;
constexpr int kChunkBytes = 128;  // of a column of x

template <Encoding kEncoding, Scaling kScaling, int kColumnsOfTile>
struct Tile {
  static constexpr Encoding kOf = kEncoding;
  static constexpr Scaling kScaled = kScaling;
  static constexpr bool kBF16 = kEncoding == Encoding::kBF16;
  static constexpr int kColumns = kColumnsOfTile;
  using Piece = Chunk<kEncoding>;
  static constexpr int kWords = Piece::kWords;
  // Two warps have the same rows and columns. Of 16-bit chunks each takes half, of smaller ones every other one.
  static constexpr bool kHalves = kWords == 4;
  static constexpr int kChunks = kHalves ? 1 : 2;  // of a step
  static constexpr int kDepth = kHalves ? 2 : 4;   // operands of a warp in a chunk
  static constexpr int kColumnWarps = kHalves && kColumns == 128 ? 2 : 1;
  static constexpr int kRowTiles = kRowBlocks * kColumnWarps / 4;   // of a warp
  static constexpr int kColumnTiles = kColumns / 8 / kColumnWarps;  // likewise
  // A stage of shared memory: weights [row block][chunk][word][lane], x [chunk][column][8 words of 16 bytes], scales
  // and zeros [row block][chunk].
  static constexpr int kScaleBytes = kScaling == Scaling::kRow ? 0 : kScaling == Scaling::kChunks ? 64 : 128;
  static constexpr int kZeroBytes = !Piece::kInteger ? 0 : kScaling == Scaling::kLanes ? 128 : 32;
  static constexpr int kXAt = kRowBlocks * kChunks * kWords * 512;
  static constexpr int kScalesAt = kXAt + kChunks * kColumns * kChunkBytes;
  static constexpr int kZerosAt = kScalesAt + kRowBlocks * kChunks * kScaleBytes;
  static constexpr int kBytes = kZerosAt + kRowBlocks * kChunks * kZeroBytes;
};

__device__ inline void copy_word(char* to, const void* from) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
}
__device__ inline void end_stage() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ inline void wait_stages() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
// Until at most `pending` stages are still on their way.
__device__ inline void wait_stages(int pending) {
  switch (pending) {
    case 0:
      return wait_stages<0>();
    case 1:
      return wait_stages<1>();
    case 2:
      return wait_stages<2>();
    case 3:
      return wait_stages<3>();
    case 4:
      return wait_stages<4>();
    case 5:
      return wait_stages<5>();
    default:
      return wait_stages<6>();
  }
}

__device__ inline const StreamPart& part_of(const StreamCall& matrix, int block) {
  int number = 0;
  while (number + 1 < matrix.part_count && block >= matrix.parts[number + 1].first_block) ++number;
  return matrix.parts[number];
}

// How steps are numbered and shared out: those of a tile are neighbours, tiles of the same rows too.
struct Shares {
  int steps;  // of a tile
  int64_t all;
  int64_t blocks;

  __device__ Shares(const BatchCall& call, int chunks_of_step)
      : steps((call.matrix.chunks + chunks_of_step - 1) / chunks_of_step),
        all(int64_t{steps} * call.column_tiles * ((call.matrix.blocks + kRowBlocks - 1) / kRowBlocks)),
        blocks(gridDim.x) {}
  __device__ int64_t begin(int64_t block) const { return block * all / blocks; }
  __device__ int block_of(int64_t step) const { return static_cast<int>(((step + 1) * blocks - 1) / all); }
  // Where a block leaves its sums of a tile: it may have the end of one and the beginning of another.
  __device__ int64_t slot(int64_t block, int tile) const { return 2 * block + (begin(block) / steps != tile); }
};

// Brings weights, scales and zeros of one step after another to shared memory: each warp those of 16 rows.
template <typename T>
struct WeightFeed {
  const BatchCall& call;
  int steps;
  int tile;
  int step;
  const uint4* weights = nullptr;
  const char* scales = nullptr;
  const char* zeros = nullptr;

  __device__ WeightFeed(const BatchCall& c, const Shares& shares, int64_t first)
      : call(c),
        steps(shares.steps),
        tile(static_cast<int>(first / shares.steps)),
        step(static_cast<int>(first % shares.steps)) {
    seek();
  }
  __device__ void seek() {
    const StreamCall& matrix = call.matrix;
    const int block = tile / call.column_tiles * kRowBlocks + static_cast<int>(threadIdx.x / 32);
    weights = nullptr;
    if (block >= matrix.blocks) return;
    const StreamPart& part = part_of(matrix, block);
    const int64_t of_part = block - part.first_block;
    const int64_t scales_before = of_part * matrix.scale_columns;
    weights = part.weights + of_part * matrix.chunks * (T::kWords * 32) + threadIdx.x % 32;
    scales = static_cast<const char*>(part.scales) + scales_before * (T::kScaled == Scaling::kChunks ? 64 : 32);
    zeros = static_cast<const char*>(part.zeros) + scales_before * 32;
  }
  __device__ void load(char* stage) {
    const int warp = static_cast<int>(threadIdx.x / 32);
    const int lane = static_cast<int>(threadIdx.x % 32);
    if (weights != nullptr) {
#pragma unroll
      for (int c = 0; c < T::kChunks; ++c) {
        const int chunk = step * T::kChunks + c;
        if (chunk >= call.matrix.chunks) break;
#pragma unroll
        for (int w = 0; w < T::kWords; ++w)
          copy_word(stage + (((warp * T::kChunks + c) * T::kWords + w) * 32 + lane) * 16,
                    weights + (int64_t{chunk} * T::kWords + w) * 32);
        load_scales(stage, warp * T::kChunks + c, chunk, lane);
      }
    }
    if (++step < steps) return;
    step = 0;
    const int rows = tile++ / call.column_tiles;
    if (tile / call.column_tiles != rows) seek();
  }
  // Of a chunk: 16 rows for each column of scales, one of them for kRow and kChunks, four for kLanes.
  __device__ void load_scales(char* stage, int place, int chunk, int lane) {
    constexpr bool kLanes = T::kScaled == Scaling::kLanes;
    const auto copy = [&](char* to, const char* from, int bytes_of_column) {
      const int words = bytes_of_column / 16;
      if (lane >= words * (kLanes ? 4 : 1)) return;
      const int column = chunk * static_cast<int>(kChunkColumns) + lane / words * 16;
      const int at = T::kScaled == Scaling::kRow ? 0 : min(column / call.matrix.block, call.matrix.scale_columns - 1);
      copy_word(to + lane * 16, from + int64_t{at} * bytes_of_column + lane % words * 16);
    };
    if constexpr (T::kScaleBytes > 0) copy(stage + T::kScalesAt + place * T::kScaleBytes, scales, kLanes ? 32 : 64);
    if constexpr (T::kZeroBytes > 0) {
      if (call.matrix.zeros) copy(stage + T::kZerosAt + place * T::kZeroBytes, zeros, 32);
    }
  }
};

// The columns of x for one step after another. Words of odd columns change places, so that operand loads meet no bank
// twice.
template <typename T>
struct ActivationFeed {
  const BatchCall& call;
  int steps;
  int tile;
  int step;

  __device__ ActivationFeed(const BatchCall& c, const Shares& shares, int64_t first)
      : call(c),
        steps(shares.steps),
        tile(static_cast<int>(first / shares.steps)),
        step(static_cast<int>(first % shares.steps)) {}
  __device__ void load(char* stage) {
    const StreamCall& matrix = call.matrix;
    const int first_column = tile % call.column_tiles * T::kColumns;
    const int columns = min(matrix.tokens * call.copies - first_column, T::kColumns);
    const uint16_t* x = matrix.x + int64_t{first_column} * matrix.chunks * kChunkColumns;
#pragma unroll
    for (int i = 0; i < T::kChunks * T::kColumns * 8; i += kThreads) {
      const int index = i + static_cast<int>(threadIdx.x);
      const int word = index % 8;
      const int c = index / 8 % T::kChunks;
      const int column = index / 8 / T::kChunks;
      const int chunk = step * T::kChunks + c;
      if (column < columns && chunk < matrix.chunks)
        copy_word(stage + T::kXAt + (c * T::kColumns + column) * kChunkBytes + (word ^ (column & 1)) * 16,
                  x + (int64_t{column} * matrix.chunks + chunk) * kChunkColumns + word * 8);
    }
    if (++step < steps) return;
    step = 0;
    ++tile;
  }
};

// Who a warp is.
template <typename T>
struct Place {
  int lane = threadIdx.x % 32;
  int g = lane / 4;
  int t = lane % 4;
  int half = threadIdx.x / 32 % 2;
  int first_row = static_cast<int>(threadIdx.x / 64) / T::kColumnWarps * T::kRowTiles;        // blocks of 16
  int first_column = static_cast<int>(threadIdx.x / 64) % T::kColumnWarps * T::kColumnTiles;  // tiles of 8
};

template <typename T>
using Sums = float[T::kRowTiles][T::kColumnTiles][4];

// The operands of a warp's rows in chunk `c` of a stage, and what multiplies their products.
template <typename T>
__device__ inline void read_weights(const char* stage, int c, const Place<T>& place, bool zeros,
                                    uint32_t (&a)[T::kRowTiles][T::kDepth][4], float2 (&scales)[T::kRowTiles]) {
#pragma unroll
  for (int r = 0; r < T::kRowTiles; ++r) {
    const int at = (place.first_row + r) * T::kChunks + c;
    const auto* words = reinterpret_cast<const uint4*>(stage) + at * T::kWords * 32 + place.lane;
    const int of_lane = T::kScaled == Scaling::kLanes ? place.t * 8 + place.g : place.g;
    typename T::Piece piece;
#pragma unroll
    for (int w = 0; w < (T::kHalves ? 2 : T::kWords); ++w)
      piece.words[w] = words[(T::kHalves ? place.half * 2 + w : w) * 32];
    LaneRows rows;
    if constexpr (T::Piece::kInteger) {
      const float middle = T::kOf == Encoding::kInt4 ? 1032.0f : 1152.0f;
      rows.zero[0] = rows.zero[1] = __float2half2_rn(middle);
      if (zeros) {
        const __half2 both = reinterpret_cast<const __half2*>(stage + T::kZerosAt + at * T::kZeroBytes)[of_lane];
        const __half2 biased = __hadd2(both, __float2half2_rn(1024.0f));
        rows.zero[0] = __half2half2(__low2half(biased));
        rows.zero[1] = __half2half2(__high2half(biased));
      }
    }
    if constexpr (T::kScaled == Scaling::kLanes) {
      const __half2 both = reinterpret_cast<const __half2*>(stage + T::kScalesAt + at * T::kScaleBytes)[of_lane];
      rows.scale[0] = __half2half2(__low2half(both));
      rows.scale[1] = __half2half2(__high2half(both));
    }
    if constexpr (T::kScaled == Scaling::kChunks)
      scales[r] = reinterpret_cast<const float2*>(stage + T::kScalesAt + at * T::kScaleBytes)[of_lane];
#pragma unroll
    for (int i = 0; i < T::kDepth; ++i) {
      operand<T::kOf>(piece, i, rows, a[r][i]);
      if constexpr (T::kScaled == Scaling::kLanes) {
#pragma unroll
        for (int j = 0; j < 4; ++j) a[r][i][j] = bits_of(__hmul2(half2_of(a[r][i][j]), rows.scale[j % 2]));
      }
    }
  }
}

template <typename T>
__device__ inline void multiply_chunk(const char* stage, int c, const Place<T>& place, bool zeros, Sums<T>& sums) {
  uint32_t a[T::kRowTiles][T::kDepth][4];
  float2 scales[T::kRowTiles];
  read_weights<T>(stage, c, place, zeros, a, scales);
#pragma unroll
  for (int tile = 0; tile < T::kColumnTiles; ++tile) {
    const int column = (place.first_column + tile) * 8 + place.g;
    const char* x = stage + T::kXAt + (c * T::kColumns + column) * kChunkBytes;
    uint4 b[T::kDepth / 2];
#pragma unroll
    for (int h = 0; h < T::kDepth / 2; ++h)
      b[h] = *reinterpret_cast<const uint4*>(x + ((2 * place.t + (T::kHalves ? place.half : h)) ^ (place.g & 1)) * 16);
    float partial[T::kRowTiles][4] = {};
#pragma unroll
    for (int i = 0; i < T::kDepth; ++i) {
      const uint4& half = b[i / 2];
      const uint32_t low = i % 2 == 0 ? half.x : half.z;
      const uint32_t high = i % 2 == 0 ? half.y : half.w;
#pragma unroll
      for (int r = 0; r < T::kRowTiles; ++r) {
        if constexpr (T::kScaled == Scaling::kChunks)
          multiply_tile<T::kBF16>(partial[r], a[r][i], low, high);
        else
          multiply_tile<T::kBF16>(sums[r][tile], a[r][i], low, high);
      }
    }
    if constexpr (T::kScaled == Scaling::kChunks) {
#pragma unroll
      for (int r = 0; r < T::kRowTiles; ++r) {
#pragma unroll
        for (int j = 0; j < 4; ++j)
          sums[r][tile][j] = fmaf(j < 2 ? scales[r].x : scales[r].y, partial[r][j], sums[r][tile][j]);
      }
    }
  }
}

// Adds up what the two warps of the same rows and columns have. Each keeps half of the columns' tiles, in the first
// half of `sums`. `memory` is a stage that nobody reads any more.
template <typename T>
__device__ inline void join_halves(char* memory, const Place<T>& place, Sums<T>& sums) {
  constexpr int kKept = T::kColumnTiles / 2;
  static_assert(kWarps * kKept * 512 <= T::kBytes, "a stage is too small for this");
  const int warp = static_cast<int>(threadIdx.x / 32);
  auto* mine = reinterpret_cast<float4*>(memory) + warp * kKept * 32 + place.lane;
  const auto* other = reinterpret_cast<const float4*>(memory) + (warp ^ 1) * kKept * 32 + place.lane;
#pragma unroll
  for (int r = 0; r < T::kRowTiles; ++r) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kKept; ++i) {
      float given[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        given[j] = place.half == 0 ? sums[r][i + kKept][j] : sums[r][i][j];
        sums[r][i][j] = place.half == 0 ? sums[r][i][j] : sums[r][i + kKept][j];
      }
      mine[i * 32] = make_float4(given[0], given[1], given[2], given[3]);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kKept; ++i) {
      const float4 got = other[i * 32];
      sums[r][i][0] += got.x;
      sums[r][i][1] += got.y;
      sums[r][i][2] += got.z;
      sums[r][i][3] += got.w;
    }
  }
}

// Visits a thread's sums as join_halves() leaves them. Of a pair of columns the first has both.
template <typename T, typename Visit>
__device__ inline void for_kept(int copies, Visit visit) {
#pragma unroll
  for (int r = 0; r < T::kRowTiles; ++r) {
#pragma unroll
    for (int i = 0; i < T::kColumnTiles / 2; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (j % 2 == 0 || copies == 1) visit(r, i, j);
      }
    }
  }
}

// Leaves a block's sums of a tile that several have, and takes those of all when it is the last. False where it is not.
template <typename T>
__device__ inline bool join_blocks(const BatchCall& call, const Shares& shares, int tile, Sums<T>& sums) {
  const int64_t first_step = int64_t{tile} * shares.steps;
  const int first = shares.block_of(first_step);
  const int last = shares.block_of(first_step + shares.steps - 1);
  if (first == last) return true;
  constexpr int kKept = T::kColumnTiles / 2;
  const auto memory = [&](int64_t block) {
    return call.partials + shares.slot(block, tile) * (kBatchRows * T::kColumns) + threadIdx.x;
  };
  const auto place = [](int r, int i, int j) { return ((r * kKept + i) * 4 + j) * kThreads; };
  float* mine = memory(blockIdx.x);
  for_kept<T>(call.copies, [&](int r, int i, int j) { mine[place(r, i, j)] = sums[r][i][j]; });
  __shared__ bool is_last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) is_last = atomicAdd(call.arrived + tile, 1) == last - first;
  __syncthreads();
  if (!is_last) return false;
  __threadfence();
  for_kept<T>(call.copies, [&](int r, int i, int j) { sums[r][i][j] = 0; });
  for (int block = first; block <= last; ++block) {
    const float* from = memory(block);
    for_kept<T>(call.copies, [&](int r, int i, int j) { sums[r][i][j] += __ldcg(from + place(r, i, j)); });
  }
  return true;
}

template <typename T>
__device__ inline void finish_tile(const BatchCall& call, const Shares& shares, int tile, char* memory,
                                   const Place<T>& place, Sums<T>& sums) {
  join_halves<T>(memory, place, sums);
  if (call.copies == 2) for_kept<T>(2, [&](int r, int i, int j) { sums[r][i][j] += sums[r][i][j + 1]; });
  if (!join_blocks<T>(call, shares, tile, sums)) return;
  const StreamCall& matrix = call.matrix;
  const int first_column = tile % call.column_tiles * T::kColumns +
                           (place.first_column + place.half * T::kColumnTiles / 2) * 8 + 2 * place.t;
#pragma unroll
  for (int r = 0; r < T::kRowTiles; ++r) {
    const int block = tile / call.column_tiles * kRowBlocks + place.first_row + r;
    if (block >= matrix.blocks) break;
    const StreamPart& part = part_of(matrix, block);
    const int row = (block - part.first_block) * static_cast<int>(kBlockRows) + place.g;
    const bool there[2] = {row < part.n, row + 8 < part.n};
    const float factors[2] = {there[0] ? part.factors[row] : 0, there[1] ? part.factors[row + 8] : 0};
    const bool biased = part.bias != nullptr;
    const float bias[2] = {biased && there[0] ? part.bias[row] : 0, biased && there[1] ? part.bias[row + 8] : 0};
#pragma unroll
    for (int i = 0; i < T::kColumnTiles / 2; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int token = (first_column + i * 8 + j % 2) / call.copies;
        if (token >= matrix.tokens || !there[j / 2] || (call.copies == 2 && j % 2 == 1)) continue;
        const float sum = sums[r][i][j] * (factors[j / 2] * matrix.x_scale[token]) + bias[j / 2];
        part.out[int64_t{token} * part.n + row + j / 2 * 8] = sum;
      }
    }
  }
}

template <Encoding kEncoding, Scaling kScaling, int kColumns>
__global__ void __launch_bounds__(kThreads, 1) batch_kernel(const __grid_constant__ BatchCall call) {
  using T = Tile<kEncoding, kScaling, kColumns>;
  extern __shared__ __align__(128) char stages[];
  const Shares shares(call, T::kChunks);
  const int64_t begin = shares.begin(blockIdx.x);
  const auto count = static_cast<int>(shares.begin(blockIdx.x + 1) - begin);
  WeightFeed<T> weights(call, shares, begin);
  ActivationFeed<T> activations(call, shares, begin);
  const int ahead = call.stages - 1;
  for (int i = 0; i < min(ahead, count); ++i) weights.load(stages + i * T::kBytes);
  wait_for_inputs();
  let_next_start();
  for (int i = 0; i < ahead; ++i) {
    if (i < count) activations.load(stages + i * T::kBytes);
    end_stage();
  }
  const Place<T> place;
  Sums<T> sums = {};
  int tile = static_cast<int>(begin / shares.steps);
  int step = static_cast<int>(begin % shares.steps);
  for (int i = 0, now = 0, next = ahead; i < count; ++i) {
    wait_stages(ahead - 1);
    __syncthreads();
    if (i + ahead < count) {
      weights.load(stages + next * T::kBytes);
      activations.load(stages + next * T::kBytes);
    }
    end_stage();
    char* stage = stages + now * T::kBytes;
    const int c = T::kHalves ? 0 : place.half;
    if (step * T::kChunks + c < call.matrix.chunks) multiply_chunk<T>(stage, c, place, call.matrix.zeros, sums);
    if (++step == shares.steps || i + 1 == count) {
      finish_tile<T>(call, shares, tile, stage, place, sums);
#pragma unroll
      for (int r = 0; r < T::kRowTiles; ++r) {
#pragma unroll
        for (int j = 0; j < T::kColumnTiles * 4; ++j) sums[r][j / 4][j % 4] = 0;
      }
      step = 0;
      ++tile;
    }
    now = now + 1 == call.stages ? 0 : now + 1;
    next = next + 1 == call.stages ? 0 : next + 1;
  }
}

template <Encoding kEncoding, Scaling kScaling, int kColumns>
void launch_batch(cudaStream_t stream, BatchCall call) {
  using T = Tile<kEncoding, kScaling, kColumns>;
  const auto kernel = batch_kernel<kEncoding, kScaling, kColumns>;
  call.stages = min(kMostStages, (call.shared_bytes - 1024) / T::kBytes);
  call.column_tiles = (call.matrix.tokens * call.copies + kColumns - 1) / kColumns;
  const int steps = (call.matrix.chunks + T::kChunks - 1) / T::kChunks;
  const int tiles = batch_row_tiles(call.matrix.blocks) * call.column_tiles;
  // Tiles of the same rows side by side read them together; sharing out steps pays where there are few tiles.
  const bool shared = call.column_tiles == 1 || tiles < kBatchSharedTiles * call.multiprocessors;
  const int blocks = shared ? min(call.multiprocessors, tiles * steps) : tiles;
  const int bytes = call.stages * T::kBytes;
  // Where this fails the launch does too, in every step, and the step says so.
  [[maybe_unused]] static const bool raised =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) == cudaSuccess;
  launch(kernel, dim3(static_cast<unsigned>(blocks)), kThreads, static_cast<size_t>(bytes), stream, call);
}

}  // namespace

void batch_linear(cudaStream_t stream, int encoding, int scaling, const BatchCall& call) {
  with_format(encoding, scaling, [&](auto e, auto s) {
    const int columns = call.matrix.tokens * call.copies;
    if (columns <= 16)
      launch_batch<e.value, s.value, 16>(stream, call);
    else if (columns <= 32)
      launch_batch<e.value, s.value, 32>(stream, call);
    else if (columns <= 64)
      launch_batch<e.value, s.value, 64>(stream, call);
    else
      launch_batch<e.value, s.value, 128>(stream, call);
  });
}

}  // namespace edgewise::cuda
