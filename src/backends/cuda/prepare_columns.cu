// What makes linear_group.cu's x of up to 64 tokens, with the norm or the gate that stands in front of it. Small
// blocks, several a row: each finds room on a multiprocessor that the product behind it holds already.
#include <cooperative_groups.h>

#include <algorithm>

#include "backends/cuda/device_code.cuh"
#include "backends/cuda/kernels.h"
#include "backends/cuda/mma.cuh"
#include "backends/cuda/row_source.cuh"

namespace edgewise::cuda {
namespace {

// Of a block, by what the product behind it leaves: 10240 registers, or 4096.
constexpr int threads_beside(bool by_warps) { return by_warps ? 256 : 128; }
#if __CUDA_ARCH__ == 900
constexpr int blocks_beside(bool by_warps) { return by_warps ? 6 : 16; }  // on a multiprocessor
#else
constexpr int blocks_beside(bool /*by_warps*/) { return 1; }  // nobody runs it there
#endif
constexpr int kMostShares = 8;  // blocks of a cluster

// What must be known of a whole row.
struct RowSums {
  float squares = 0;
  float largest = 0;
};

// Blocks of a cluster tell each other what they know of their row.
template <int kThreads>
class RowExchange {
 public:
  __device__ RowExchange() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
#endif
  }
  // By all threads, once.
  __device__ RowSums combine(RowSums sums) {
#if __CUDA_ARCH__ >= 900
    __shared__ RowSums of_warps[kThreads / 32];
    __shared__ RowSums of_blocks[kMostShares];
    sums.squares = combine_warp(sums.squares, Sum());
    sums.largest = combine_warp(sums.largest, Largest());
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = sums;
    asm volatile("barrier.cluster.wait;" ::: "memory");  // the others have begun
    __syncthreads();
    namespace cg = cooperative_groups;
    const cg::cluster_group cluster = cg::this_cluster();
    if (threadIdx.x < cluster.num_blocks()) {
      sums = of_warps[0];
      for (int i = 1; i < kThreads / 32; ++i) add(sums, of_warps[i]);
      cluster.map_shared_rank(of_blocks, threadIdx.x)[cluster.block_rank()] = sums;
    }
    cluster.sync();
    sums = of_blocks[0];
    for (unsigned i = 1; i < cluster.num_blocks(); ++i) add(sums, of_blocks[i]);
#endif
    return sums;
  }

 private:
  __device__ static void add(RowSums& to, const RowSums& other) {
    to.squares += other.squares;
    to.largest = fmaxf(to.largest, other.largest);
  }
};

// Four numbers of column `column` of x [chunk][column][64]. Of a chunk a lane's operands are 16 neighbours of the
// matrix; words of 16 bytes change places, so that nobody meets a bank of shared memory twice (group_multiply.cuh).
__device__ inline void store_four(uint16_t* x, int i, int columns, int column, uint2 four) {
  auto* words = reinterpret_cast<uint32_t*>(x + (int64_t{i / 64} * columns + column) * 64);
  const int operand = i / 4 % 4;
  const int lane = i / 16 % 4;
  if (by_warps(columns)) {
    const int word = ((operand / 2) ^ (column % 2)) * 4 + lane;
    *reinterpret_cast<uint2*>(words + word * 4 + operand % 2 * 2) = four;
    return;
  }
  words[((2 * operand) ^ (column % 8)) * 4 + lane] = four.x;
  words[((2 * operand + 1) ^ (column % 8)) * 4 + lane] = four.y;
}

// One row's numbers on their way to x.
struct ColumnsOfRow {
  uint16_t* x;
  int columns;
  int number;  // of the row
  Activation kind;
  float scale = 1;

  __device__ void store(int i, float4 v) const {
    uint2 high, low;
    if (kind == Activation::kBF16Pair) {
      split_pair<true>(v.x, v.y, high.x, low.x);
      split_pair<true>(v.z, v.w, high.y, low.y);
      store_four(x, i, columns, 2 * number, high);
      store_four(x, i, columns, 2 * number + 1, low);
      return;
    }
    if (kind == Activation::kInt8) {
      v = {nearbyintf(v.x / scale), nearbyintf(v.y / scale), nearbyintf(v.z / scale), nearbyintf(v.w / scale)};
    } else {
      const float inverse = 1 / scale;  // exact: a power of two
      v = {v.x * inverse, v.y * inverse, v.z * inverse, v.w * inverse};
    }
    store_four(x, i, columns, number, {bits_of(__floats2half2_rn(v.x, v.y)), bits_of(__floats2half2_rn(v.z, v.w))});
  }
};

template <Source kSource, bool kByWarps>
__global__ void __launch_bounds__(threads_beside(kByWarps), blocks_beside(kByWarps))
    columns_kernel(RowSource source, int k, int k_padded, Activation kind, uint16_t* to, float* scales, int columns) {
  constexpr int kThreads = threads_beside(kByWarps);
  RowExchange<kThreads> exchange;
  const int first = static_cast<int>(blockIdx.y * kThreads + threadIdx.x) * 4;
  const int stride = static_cast<int>(gridDim.y * kThreads) * 4;
  if (kSource == Source::kNormed && first < k) prefetch_line(source.norm + first);
  wait_for_inputs();
  ColumnsOfRow out{to, columns, static_cast<int>(blockIdx.x), kind};
  Row<kSource> row(source, out.number, k);
  const bool normed = kSource == Source::kNormed;
  if (!normed && kind == Activation::kBF16Pair) {
#pragma unroll(kByWarps ? 3 : 2)
    for (int i = first; i < k_padded; i += stride) out.store(i, row.at(i));
  } else {
    // Rows that need no scale, which are almost all, are done at once where no norm wants all of them.
    RowSums sums;
    const float4 first_four = normed ? row.raw(first) : float4{};
#pragma unroll(kByWarps ? 3 : 2)
    for (int i = first; i < k_padded; i += stride) {
      const float4 v = row.at(i);
      sums.largest = fmaxf(sums.largest, largest_of(v));
      if constexpr (kSource == Source::kNormed) {
        const float4 x = i == first ? first_four : row.raw(i);
        sums.squares += x.x * x.x + x.y * x.y + (x.z * x.z + x.w * x.w);
      } else if (kind == Activation::kF16) {
        out.store(i, v);
      }
    }
    sums = exchange.combine(sums);
    if constexpr (kSource == Source::kNormed) {
      row.inverse = rsqrtf(sums.squares / static_cast<float>(k) + source.epsilon);
      sums.largest *= row.inverse;
    }
    if (kind != Activation::kBF16Pair) out.scale = row_scale(sums.largest, kind);
    if (normed || kind == Activation::kInt8 || out.scale != 1) {
      for (int i = first; i < k_padded; i += stride) out.store(i, row.at(i));
    }
  }
  if (threadIdx.x == 0 && blockIdx.y == 0) scales[out.number] = out.scale;
}

// A multiprocessor that has set aside little shared memory takes no block of a product until it is idle.
template <typename Kernel>
bool prefer_shared(Kernel kernel) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared) ==
         cudaSuccess;
}

}  // namespace

void prepare_columns(cudaStream_t stream, const RowSource& source, int rows, int k, int k_padded, Activation kind,
                     uint16_t* to, float* scale, int columns) {
  const bool whole = source.source == Source::kNormed || kind != Activation::kBF16Pair;  // rows are looked at whole
  const int threads = threads_beside(by_warps(columns));
  const int wanted = (k_padded + threads * 4 - 1) / (threads * 4);
  const int shares = whole ? std::min(wanted, kMostShares) : wanted;
  const auto go = [&](auto kernel) {
    launch_clusters(kernel, dim3(static_cast<unsigned>(rows), static_cast<unsigned>(shares)),
                    dim3(1, static_cast<unsigned>(whole ? shares : 1)), threads, 0, stream, source, k, k_padded, kind,
                    to, scale, columns);
  };
  with_source(source.source, [&](auto of_source) {
    constexpr Source kSource = decltype(of_source)::value;
    [[maybe_unused]] static const bool preferred =
        prefer_shared(columns_kernel<kSource, true>) && prefer_shared(columns_kernel<kSource, false>);
    by_warps(columns) ? go(columns_kernel<kSource, true>) : go(columns_kernel<kSource, false>);
  });
}

}  // namespace edgewise::cuda
