// Times the kernels of kLinear at real models' shapes against the GPU's memory bandwidth, which it measures first.
//   build/cuda_linear_bench [tokens ...]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "backends/cuda/device_code.cuh"
#include "backends/cuda/encoding.h"
#include "backends/cuda/kernels.h"

namespace {

using namespace edgewise::cuda;

void check(cudaError_t result) {
  if (result == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(result));
  std::exit(1);
}

__global__ void fill_kernel(uint32_t* data, int64_t count) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    uint32_t x = static_cast<uint32_t>(i) * 2654435761u + 12345u;
    x ^= x >> 15;
    x *= 2246822519u;
    x ^= x >> 13;
    data[i] = x & 0xbfffbfffu;  // no infinities
  }
}

// Median microseconds of one launch, in a graph of `launches`.
double time_launches(cudaStream_t stream, int launches, const std::function<void(int)>& launch_one) {
  cudaGraph_t graph;
  cudaGraphExec_t ready;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < launches; ++i) launch_one(i);
  check(cudaStreamEndCapture(stream, &graph));
  check(cudaGraphInstantiate(&ready, graph, 0));
  cudaEvent_t start, stop;
  check(cudaEventCreate(&start));
  check(cudaEventCreate(&stop));
  std::vector<double> times;
  for (int i = 0; i < 7; ++i) {
    check(cudaEventRecord(start, stream));
    check(cudaGraphLaunch(ready, stream));
    check(cudaEventRecord(stop, stream));
    check(cudaStreamSynchronize(stream));
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, start, stop));
    if (i > 1) times.push_back(milliseconds * 1e3 / launches);
  }
  std::nth_element(times.begin(), times.begin() + 2, times.end());
  cudaGraphExecDestroy(ready);
  cudaGraphDestroy(graph);
  return times[2];
}

struct Format {
  const char* name;
  Encoding encoding;
  Scaling scaling;
  int block;  // 0: a row
  double bytes_a_weight;
};

}  // namespace

int main(int argc, char** argv) {
  std::vector<int> token_counts;
  for (int i = 1; i < argc; ++i) token_counts.push_back(std::atoi(argv[i]));
  if (token_counts.empty()) token_counts = {1, 4, 8, 16, 32};
  constexpr size_t kPool = size_t{8} << 30;
  char* pool = nullptr;
  check(cudaMalloc(&pool, kPool));
  fill_kernel<<<4096, 256>>>(reinterpret_cast<uint32_t*>(pool), kPool / 4);
  check(cudaDeviceSynchronize());
  cudaStream_t stream;
  check(cudaStreamCreate(&stream));
  const double read_us = time_launches(stream, 1, [&](int) { read_all(stream, pool, kPool); });
  const double bandwidth = static_cast<double>(kPool) / read_us / 1e6;  // TB/s
  std::printf("read bandwidth %.2f TB/s\n", bandwidth);
  const Format formats[] = {{"bf16", Encoding::kBF16, Scaling::kRow, 0, 2},
                            {"f16", Encoding::kF16, Scaling::kRow, 0, 2},
                            {"fp8", Encoding::kF8, Scaling::kRow, 0, 1},
                            {"int8", Encoding::kInt8, Scaling::kRow, 0, 1},
                            {"int4 g128", Encoding::kInt4, Scaling::kChunks, 128, 0.5 + 4.0 / 128},
                            {"nvfp4", Encoding::kF4, Scaling::kLanes, 16, 0.5 + 2.0 / 16}};
  const int shapes[][2] = {{4608, 3584}, {3584, 3584},  {37888, 3584}, {3584, 18944}, {152064, 3584},
                           {2560, 2048}, {11264, 2048}, {2048, 5632},  {4096, 1024},  {1024, 2048}};
  float* x = nullptr;
  float* out = nullptr;
  uint16_t* prepared = nullptr;
  float* scales = nullptr;
  check(cudaMalloc(&x, 64 * 18944 * 4));
  check(cudaMalloc(&prepared, 64 * 18944 * 4));
  check(cudaMalloc(&scales, 64 * 4));
  check(cudaMalloc(&out, size_t{64} * 152064 * 4));
  check(cudaMemset(x, 0, 64 * 18944 * 4));
  for (const int tokens : token_counts) {
    std::printf("%d tokens: us a launch (share of the bandwidth), weights and preparation of x\n%14s", tokens, "");
    for (const Format& format : formats) std::printf("%18s", format.name);
    std::printf("\n");
    for (const auto& shape : shapes) {
      const int n = shape[0];
      const int k = shape[1];
      std::printf("%6d x %5d", n, k);
      for (const Format& format : formats) {
        const int copies = format.encoding == Encoding::kBF16 ? 2 : 1;
        const size_t bytes = static_cast<size_t>(static_cast<double>(n) * k * format.bytes_a_weight);
        const size_t stride = (bytes + 65536) / 256 * 256;
        const int copies_of_weights = static_cast<int>(std::min<size_t>(64, (kPool - (size_t{1} << 30)) / stride));
        const int launches = std::max(4, std::min(copies_of_weights, 32));
        const auto one = [&](int i) {
          StreamCall call;
          StreamPart& part = call.parts[0];
          const char* at = pool + static_cast<size_t>(i % copies_of_weights) * stride;
          part.weights = reinterpret_cast<const uint4*>(at);
          const size_t weight_bytes = static_cast<size_t>(
              static_cast<double>(n) * k *
              (format.encoding == Encoding::kF4 || format.encoding == Encoding::kInt4 ? 0.5 : format.bytes_a_weight));
          part.scales = at + weight_bytes;
          part.factors = reinterpret_cast<const float*>(pool + kPool - (size_t{1} << 28));
          part.out = out;
          part.n = n;
          call.part_count = 1;
          call.blocks = n / 16;
          call.chunks = k / 64;
          call.block = format.block == 0 ? k : format.block;
          call.scale_columns = k / call.block;
          call.x = prepared;
          call.x_scale = scales;
          if (tokens <= kMostDecodeTokens) {
            DecodeCall decode;
            call.tokens = tokens;
            decode.matrix = call;
            decode.k = k;
            decode.x = x;
            decode.scale_magic = (1 << 20) / (format.scaling == Scaling::kChunks ? 2 : 1) + 1;
            decode.slots = 132 * kDecodeBlocks;
            decode.ranks = choose_decode_ranks(call.blocks, call.chunks, 132, true);
            return decode_linear(stream, static_cast<int>(format.encoding), static_cast<int>(format.scaling), decode);
          }
          const int most = 64 / copies;
          for (int token = 0; token < tokens; token += most) {
            call.tokens = std::min(most, tokens - token);
            prepare_rows(stream, x, call.tokens, k, k, copies == 2 ? Activation::kBF16Pair : Activation::kF16, prepared,
                         scales);
            stream_linear(stream, static_cast<int>(format.encoding), static_cast<int>(format.scaling), call);
          }
        };
        const double us = time_launches(stream, launches, one);
        std::printf("%10.1f (%4.1f%%)", us, static_cast<double>(bytes) / us / 1e4 / bandwidth);
      }
      std::printf("\n");
    }
  }
  check(cudaGetLastError());
  return 0;
}
