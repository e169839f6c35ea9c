// Times the kernels of kLinear at real models' shapes against the GPU's memory bandwidth and cuBLASLt's largest rate,
// which it measures first.
//   build/cuda_linear_bench [layers] [tokens ...]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string_view>
#include <type_traits>
#include <vector>

#include "backends/cuda/bench_support.h"
#include "backends/cuda/dense.h"
#include "backends/cuda/device_code.cuh"
#include "backends/cuda/encoding.h"
#include "backends/cuda/kernels.h"

namespace {

using namespace edgewise::cuda;

struct Format {
  const char* name;
  Encoding encoding;
  Scaling scaling;
  int block;  // 0: a row
  double bytes_a_weight;
  Activation activation = Activation::kF16;
};

constexpr Format kFormats[] = {{"bf16", Encoding::kBF16, Scaling::kRow, 0, 2, Activation::kBF16Pair},
                               {"f16", Encoding::kF16, Scaling::kRow, 0, 2},
                               {"fp8", Encoding::kF8, Scaling::kRow, 0, 1},
                               {"int8", Encoding::kInt8, Scaling::kRow, 0, 1},
                               {"int8_sq", Encoding::kInt8, Scaling::kRow, 0, 1, Activation::kInt8},
                               {"int4 g128", Encoding::kInt4, Scaling::kChunks, 128, 0.5 + 4.0 / 128},
                               {"nvfp4", Encoding::kF4, Scaling::kLanes, 16, 0.5 + 2.0 / 16}};
constexpr size_t kPool = size_t{8} << 30;
constexpr int64_t kMostX = int64_t{4096} * 18944;

struct Bench {
  cudaStream_t stream = nullptr;
  char* pool = nullptr;
  float* x = nullptr;
  float* out = nullptr;
  uint16_t* prepared = nullptr;
  float* scales = nullptr;
  float* partials = nullptr;
  int32_t* arrived = nullptr;
  uint16_t* unpacked = nullptr;
  std::byte* scratch = nullptr;
  int multiprocessors = 0;
  bool grouped = false;
  size_t slice_bytes = size_t{128} << 20;
  std::unique_ptr<DenseProduct> bf16 = DenseProduct::make(true);
  std::unique_ptr<DenseProduct> f16 = DenseProduct::make(false);

  template <typename T>
  static void allocate(T*& memory, size_t bytes) {
    // Numbers of float32 around one, other bits without infinities.
    const bool floats = std::is_same_v<T, float>;
    check(cudaMalloc(reinterpret_cast<void**>(&memory), bytes));
    fill_words(memory, bytes, floats ? 0x3f000000u : 0u, floats ? 0x80ffffffu : 0xbfffbfffu);
  }
  Bench() {
    allocate(pool, kPool);
    allocate(x, kMostX * 4);
    allocate(prepared, kMostX * 2 + 64 * 152064 * 4);
    allocate(scales, 8192 * 4);
    allocate(out, size_t{4096} * 37888 * 4);
    allocate(unpacked, size_t{1200} << 20);
    allocate(scratch, DenseProduct::kScratchBytes);
    check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0));
    int major = 0;
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    int minor = 0;
    check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0));
    grouped = major == 9 && minor == 0;
    allocate(partials, 2 * static_cast<size_t>(multiprocessors) * kBatchRows * kBatchColumns * 4);
    allocate(arrived, 65536 * 4);
    check(cudaDeviceSynchronize());
    check(cudaStreamCreate(&stream));
  }

  static int copies_of(const Format& format, int tokens) {
    return format.activation == Activation::kBF16Pair && tokens <= kMostBatchTokens ? 2 : 1;
  }
  static double code_bytes_of(const Format& format) { return format.bytes_a_weight < 1 ? 0.5 : format.bytes_a_weight; }
  static size_t bytes_of(const Format& format, int n, int k) {
    return (static_cast<size_t>(static_cast<double>(n) * k * format.bytes_a_weight) + 65536) / 256 * 256;
  }
  // Matrix number i of some that do not fit the cache together.
  StreamCall call_for(const Format& format, int n, int k, int tokens, int i) const {
    const size_t stride = bytes_of(format, n, k);
    const auto copies = static_cast<int>(std::min<size_t>(64, (kPool - (size_t{1} << 30)) / stride));
    return call_at(format, n, k, tokens, static_cast<size_t>(i % copies) * stride);
  }
  StreamCall call_at(const Format& format, int n, int k, int tokens, size_t offset) const {
    StreamCall call;
    StreamPart& part = call.parts[0];
    const char* at = pool + offset;
    const double code_bytes = code_bytes_of(format);
    part.weights = reinterpret_cast<const uint4*>(at);
    part.scales = at + static_cast<size_t>(static_cast<double>(n) * k * code_bytes);
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
    call.tokens = tokens;
    return call;
  }
  void decode(const Format& format, int n, int k, int tokens, int i) const {
    DecodeCall call;
    call.matrix = call_for(format, n, k, tokens, i);
    call.k = k;
    call.source.x = x;
    call.scale_magic = (1 << 20) / (format.scaling == Scaling::kChunks ? 2 : 1) + 1;
    call.slots = multiprocessors * kDecodeBlocks;
    call.ranks = choose_decode_ranks(call.matrix.blocks, call.matrix.chunks, multiprocessors, true);
    decode_linear(stream, static_cast<int>(format.encoding), static_cast<int>(format.scaling), call);
  }
  void prepare(const Format& format, int k, int tokens, const RowSource& source) const {
    const bool many = tokens > kMostBatchTokens && format.activation == Activation::kBF16Pair;
    if (grouped && tokens <= kMostBatchTokens)
      prepare_columns(stream, source, tokens, k, k, format.activation, prepared, scales,
                      group_columns(tokens, copies_of(format, tokens)));
    else
      prepare_rows(stream, source, tokens, k, k, many ? Activation::kBF16 : format.activation, prepared, scales,
                   arrived, 2048);
  }
  void batch(const Format& format, int n, int k, int tokens, int i) const {
    prepare(format, k, tokens, {.x = x});
    multiply_batch(format, call_for(format, n, k, tokens, i));
  }
  void multiply_batch(const Format& format, const StreamCall& matrix, const float* residual = nullptr) const {
    const int tokens = matrix.tokens;
    BatchCall call;
    call.matrix = matrix;
    call.residual = residual;
    call.copies = copies_of(format, tokens);
    call.multiprocessors = multiprocessors;
    if (grouped && tokens <= kMostBatchTokens)
      call.group = choose_group_shape(matrix.blocks, matrix.chunks, multiprocessors);
    call.scale_magic = (1 << 20) / (format.scaling == Scaling::kChunks ? 2 : 1) + 1;
    call.partials = partials;
    call.arrived = arrived;
    batch_linear(stream, static_cast<int>(format.encoding), static_cast<int>(format.scaling), call);
  }
  // Layer number i of Qwen2.5-7B, with stand-ins for what attention does.
  void layer(const Format& format, int tokens, int i) const {
    constexpr int kHidden = 3584;
    constexpr int kInner = 18944;
    const auto* weight = reinterpret_cast<const float*>(pool);
    constexpr int kShapes[][2] = {{4608, kHidden}, {kHidden, kHidden}, {2 * kInner, kHidden}, {kHidden, kInner}};
    size_t bytes = 0;
    for (const auto& [n, k] : kShapes) bytes += bytes_of(format, n, k);
    size_t offset = static_cast<size_t>(i) % ((kPool - (size_t{1} << 30)) / bytes) * bytes;
    const auto product = [&](int shape, const RowSource& source, const float* residual) {
      const auto& [n, k] = kShapes[shape];
      prepare(format, k, tokens, source);
      multiply_batch(format, call_at(format, n, k, tokens, offset), residual);
      offset += bytes_of(format, n, k);
    };
    const RowSource normed{.x = x, .source = Source::kNormed, .norm = weight, .epsilon = 1e-6f};
    product(0, normed, nullptr);
    rms_norm_rows(stream, x, weight, tokens * 28, 128, 1e-6f, x);
    rms_norm_rows(stream, x, weight, tokens * 28, 128, 1e-6f, x);
    product(1, {.x = x}, x);
    product(2, normed, nullptr);
    product(3, {.x = x, .up = out, .source = Source::kSwiGlu}, x);
  }
  void unpack(const Format& format, int n, int k, int first_block, int blocks, int i) const {
    UnpackCall call;
    call.matrix = call_for(format, n, k, 1, i);
    call.first_block = first_block;
    call.blocks = blocks;
    call.codes = format.activation == Activation::kInt8;
    call.to = unpacked;
    unpack_weights(stream, static_cast<int>(format.encoding), static_cast<int>(format.scaling), call);
  }
  void multiply(const Format& format, int n, int k, int tokens, int first_block, int blocks) const {
    const DenseProduct& product = format.encoding == Encoding::kBF16 ? *bf16 : *f16;
    if (!product.multiply(stream, unpacked, prepared, blocks * 16, tokens, k, n, 1, out + first_block * 16, scratch))
      std::printf("the library cannot\n");
  }
  void dense(const Format& format, int n, int k, int tokens, int i) const {
    prepare(format, k, tokens, {.x = x});
    const int most = static_cast<int>(slice_bytes / (static_cast<size_t>(k) * 32)) / 8 * 8;
    for (int block = 0; block < n / 16; block += most) {
      const int blocks = std::min(most, n / 16 - block);
      unpack(format, n, k, block, blocks, i);
      multiply(format, n, k, tokens, block, blocks);
    }
    if (format.encoding == Encoding::kBF16) return;
    const auto* factors = reinterpret_cast<const float*>(pool);
    finish_rows(stream, out, tokens, n, scales, format.activation == Activation::kInt8 ? factors : nullptr, nullptr);
  }
};

}  // namespace

int main(int argc, char** argv) {
  std::vector<int> token_counts;
  const bool layers_only = argc > 1 && std::string_view(argv[1]) == "layers";
  for (int i = layers_only ? 2 : 1; i < argc; ++i) token_counts.push_back(std::atoi(argv[i]));
  if (token_counts.empty()) token_counts = {1, 4, 8, 16, 32, 64, 128, 256, 512, 2048};
  Bench bench;
  const double read_us = time_launches(bench.stream, 1, [&](int) { read_all(bench.stream, bench.pool, kPool); });
  const double bandwidth = static_cast<double>(kPool) / read_us / 1e6;  // TB/s
  std::printf("read bandwidth %.2f TB/s\n", bandwidth);
  double dense_rate = 500;  // TFLOP/s, where there is no library to ask
  // Large products take so much power that the GPU lowers its clock for seconds: layers are timed without one before.
  if (bench.bf16 != nullptr && !layers_only) {
    constexpr int kSide = 8192;
    const double us = time_launches(bench.stream, 4, [&](int) {
      bench.bf16->multiply(bench.stream, bench.unpacked, bench.prepared, kSide, kSide, kSide, kSide, 1, bench.out,
                           bench.scratch);
    });
    dense_rate = 2.0 * kSide * kSide * kSide / us / 1e6;
    std::printf("dense bf16 rate of cuBLASLt, 8192 x 8192 x 8192: %.0f TFLOP/s\n", dense_rate);
  }
  const int shapes[][2] = {{4608, 3584}, {3584, 3584}, {37888, 3584}, {3584, 18944},
                           {6144, 1024}, {1024, 3072}, {1024, 2048}};
  for (const int tokens : token_counts) {
    if (tokens <= kMostDecodeTokens || tokens > kMostBatchTokens) continue;
    std::printf("%d tokens, a layer of 4608 x 3584, 3584 x 3584, 37888 x 3584 and 3584 x 18944:\n", tokens);
    for (const Format& format : kFormats) {
      constexpr double kWeights = 4608.0 * 3584 + 3584.0 * 3584 + 37888.0 * 3584 + 3584.0 * 18944;
      const double us = time_launches(bench.stream, 8, [&](int i) { bench.layer(format, tokens, i); });
      std::printf("%12s%9.1f us %5.1f%%  %.2f GHz\n", format.name, us,
                  kWeights * format.bytes_a_weight / us / 1e4 / bandwidth, clock_rate(bench.stream));
    }
  }
  if (layers_only) return 0;
  for (const int tokens : token_counts) {
    const auto table = [&](const char* name, auto one) {
      std::printf("%d tokens, %s: us, %% of the bandwidth, %% of the dense rate\n%14s", tokens, name, "");
      for (const Format& format : kFormats) std::printf("%22s", format.name);
      std::printf("\n");
      for (const auto& shape : shapes) {
        const int n = shape[0];
        const int k = shape[1];
        std::printf("%6d x %5d", n, k);
        for (const Format& format : kFormats) {
          if (tokens <= kMostDecodeTokens && format.activation == Activation::kInt8) {
            std::printf("%22s", "-");
            continue;
          }
          const double bytes = static_cast<double>(n) * k * format.bytes_a_weight;
          const int launches = tokens > 64 ? 4 : 16;
          const double us = time_launches(bench.stream, launches, [&](int i) { one(format, n, k, i); });
          const double flops = 2.0 * n * k * tokens;
          std::printf("%9.1f %5.1f%% %4.0f%%", us, bytes / us / 1e4 / bandwidth, flops / us / 1e4 / dense_rate);
        }
        std::printf("\n");
      }
    };
    if (tokens <= kMostDecodeTokens)
      table("decode", [&](const Format& f, int n, int k, int i) { bench.decode(f, n, k, tokens, i); });
    else
      table("batch", [&](const Format& f, int n, int k, int i) { bench.batch(f, n, k, tokens, i); });
    if (tokens <= kMostBatchTokens || bench.bf16 == nullptr) continue;
    table("unpacked for cuBLASLt", [&](const Format& f, int n, int k, int i) { bench.dense(f, n, k, tokens, i); });
    const int n = 18944;
    const int k = 3584;
    const int blocks = n / 16;
    std::printf("of which, for %d x %d, unpacking, preparation of x and the product take us\n", n, k);
    for (const Format& format : kFormats) {
      std::printf("%12s", format.name);
      std::printf("%8.1f", time_launches(bench.stream, 4, [&](int i) { bench.unpack(format, n, k, 0, blocks, i); }));
      std::printf("%8.1f",
                  time_launches(bench.stream, 4, [&](int) { bench.prepare(format, k, tokens, {.x = bench.x}); }));
      std::printf("%8.1f\n",
                  time_launches(bench.stream, 4, [&](int) { bench.multiply(format, n, k, tokens, 0, blocks); }));
    }
  }
  check(cudaGetLastError());
  return 0;
}
