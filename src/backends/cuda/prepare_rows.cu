// What makes operands of a product's activations, with the norm or the gate that stands in front of it.
#include <cooperative_groups.h>

#include <type_traits>

#include "backends/cuda/device_code.cuh"
#include "backends/cuda/kernels.h"
#include "backends/cuda/mma.cuh"
#include "backends/cuda/row_source.cuh"

namespace edgewise::cuda {
namespace {

// The largest number of a row whose blocks are a cluster.
__device__ inline float combine_cluster(float largest) {
#if __CUDA_ARCH__ >= 900
  namespace cg = cooperative_groups;
  __shared__ float of_block;
  const cg::cluster_group cluster = cg::this_cluster();
  if (cluster.num_blocks() == 1) return largest;
  if (threadIdx.x == 0) of_block = largest;
  cluster.sync();
  for (unsigned i = 0; i < cluster.num_blocks(); ++i) largest = fmaxf(largest, *cluster.map_shared_rank(&of_block, i));
  cluster.sync();
#endif
  return largest;
}

// Blocks of 1024 threads that a multiprocessor has threads for (CUDA C++ Programming Guide, "Technical Specifications
// per Compute Capability").
#if __CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 870 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1100
constexpr int kMostBlocks = 1;
#else
constexpr int kMostBlocks = 2;
#endif

// A row's blocks share out its columns; where something must be known of all of them there is one block, or a cluster.
// kHeld: fours of columns that a thread keeps; of longer rows it makes the rest twice, but for 1, which is all it has:
// such a block finds room beside one of a product.
template <Source kSource, int kHeld>
__global__ void __launch_bounds__(1024, kHeld == 1 ? kMostBlocks : 1)
    prepare_kernel(RowSource source, int k, int k_padded, Activation kind, uint16_t* to, float* scales,
                   int32_t* arrived, int tiles) {
  if constexpr (kSource == Source::kNormed) {
    for (int i = threadIdx.x * 32; i < k; i += blockDim.x * 32) prefetch_line(source.norm + i);
  }
  wait_for_inputs();
  const int number = static_cast<int>(blockIdx.x);
  const int first = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) * 4;
  const int stride = static_cast<int>(gridDim.y * blockDim.x) * 4;
  if (number == 0) {
    for (int i = first / 4; i < tiles; i += stride / 4) arrived[i] = 0;
  }
  Row<kSource> row(source, number, k);
  if constexpr (kSource == Source::kNormed) row.inverse = inverse_norm(row.x, k, source.epsilon);
  float4 held[kHeld];
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    if (first + j * stride < k_padded) held[j] = row.at(first + j * stride);
  }
  const bool halves = kind == Activation::kF16 || kind == Activation::kInt8;
  float scale = 1;
  if (halves) {
    float largest = 0;
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      if (first + j * stride < k_padded) largest = fmaxf(largest, largest_of(held[j]));
    }
    if constexpr (kHeld > 1) {
      for (int i = first + kHeld * stride; i < k; i += stride) largest = fmaxf(largest, largest_of(row.at(i)));
    }
    scale = row_scale(combine_cluster(combine_block(largest, Largest())), kind);
  }
  const float inverse = 1 / scale;  // exact for halves, whose scale is a power of two
  const int copies = kind == Activation::kBF16Pair ? 2 : 1;
  uint16_t* out = to + static_cast<int64_t>(copies) * number * k_padded;
  const auto store = [&](int i, float4 v) {
    uint2 high, low;
    if (!halves) {
      split_pair<true>(v.x, v.y, high.x, low.x);
      split_pair<true>(v.z, v.w, high.y, low.y);
    } else {
      if (kind == Activation::kInt8)
        v = {nearbyintf(v.x / scale), nearbyintf(v.y / scale), nearbyintf(v.z / scale), nearbyintf(v.w / scale)};
      else
        v = {v.x * inverse, v.y * inverse, v.z * inverse, v.w * inverse};
      high = {bits_of(__floats2half2_rn(v.x, v.y)), bits_of(__floats2half2_rn(v.z, v.w))};
    }
    // Of 64 columns the words of 8 stand in the order 0, 2, 4, 6, 1, 3, 5, 7.
    const int at = (i & ~63) | (i & 8) << 2 | (i & 48) >> 1 | (i & 7);
    *reinterpret_cast<uint2*>(out + at) = high;
    if (copies == 2) *reinterpret_cast<uint2*>(out + k_padded + at) = low;
  };
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    if (first + j * stride < k_padded) store(first + j * stride, held[j]);
  }
  if constexpr (kHeld > 1) {
#pragma unroll 4
    for (int i = first + kHeld * stride; i < k_padded; i += stride) store(i, row.at(i));
  }
  if (threadIdx.x == 0 && blockIdx.y == 0) scales[number] = scale;
}

constexpr int kMostRowBlocks = 8;  // of a cluster

// A multiprocessor that has set aside little shared memory takes no block of a product until it is idle and sets aside
// more: some came so late that the others had done their part.
template <Source kSource>
bool prefer_shared() {
  const auto set = [](auto kernel) {
    return cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                cudaSharedmemCarveoutMaxShared) == cudaSuccess;
  };
  return set(prepare_kernel<kSource, 1>) && set(prepare_kernel<kSource, 5>);
}

bool knows_clusters() {
  cudaFuncAttributes attributes = {};
  const auto kernel = prepare_kernel<Source::kSwiGlu, 1>;
  return cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess && attributes.binaryVersion >= 90;
}

}  // namespace

void prepare_rows(cudaStream_t stream, const RowSource& source, int rows, int k, int k_padded, Activation kind,
                  uint16_t* to, float* scale, int32_t* arrived, int tiles) {
  const bool few = rows <= kMostBatchTokens;
  const bool normed = source.source == Source::kNormed;
  const bool halves = kind == Activation::kF16 || kind == Activation::kInt8;
  // Long gated rows take a block long, and blocks of few threads find room beside a product's.
  static const bool clusters = knows_clusters();
  const bool shared = few && is_gated(source.source) && halves && k > 4096 && clusters;
  const int threads = normed ? norm_threads(k) : shared ? 256 : few && k > 1024 ? 1024 : 256;
  const int wanted = (k_padded + threads * 4 - 1) / (threads * 4);
  const int shares = shared ? kMostRowBlocks : !few || normed || halves ? 1 : wanted;
  with_source(source.source, [&](auto of_source) {
    constexpr Source kSource = decltype(of_source)::value;
    const auto kernel = wanted <= shares ? prepare_kernel<kSource, 1> : prepare_kernel<kSource, 5>;
    [[maybe_unused]] static const bool preferred = prefer_shared<kSource>();
    launch_clusters(kernel, dim3(static_cast<unsigned>(rows), static_cast<unsigned>(shares)),
                    dim3(1, static_cast<unsigned>(shared ? shares : 1)), threads, 0, stream, source, k, k_padded, kind,
                    to, scale, arrived, tiles);
  });
}

}  // namespace edgewise::cuda
