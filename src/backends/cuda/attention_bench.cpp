// Times the attention of decoding sequences alone, at real models' heads, against the GPU's memory bandwidth, which it
// measures first.
//   build/cuda_attention_bench [batch:history ...]
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "backends/cuda/attention_kernels.h"
#include "backends/cuda/bench_support.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/step_tables.h"

namespace {

using namespace edgewise;
using namespace edgewise::cuda;

struct Heads {
  const char* name;
  int q, kv, dim;
};
constexpr Heads kHeads[] = {{"Qwen2.5-7B", 28, 4, 128}, {"Qwen3-0.6B", 16, 8, 128}, {"TinyLlama", 32, 4, 64}};
struct CacheType {
  const char* name;
  KvType type;
  int bytes;
};
constexpr CacheType kCaches[] = {{"bf16", KvType::kBF16, 2}, {"fp8", KvType::kF8, 1}};
struct Point {
  int batch;
  int history;
};

constexpr size_t kPool = size_t{8} << 30;
constexpr int kMostRows = 64;
constexpr int kMostColumns = 8192;

template <typename T>
T* allocate(size_t count) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, count * sizeof(T)));
  check(cudaMemset(memory, 0, count * sizeof(T)));
  return static_cast<T*>(memory);
}

class Bench {
 public:
  Bench() {
    check(cudaStreamCreate(&stream_));
    // Halves, bf16 and fp8 without infinities.
    fill_words(pool_, kPool, 0, 0xbfffbfffu);
    fill_words(rows_, sizeof(float) * kMostRows * kMostColumns, 0x3f000000u, 0x80ffffffu);
    check(cudaDeviceSynchronize());
    const double us = time_launches(stream_, 1, [&](int) { read_all(stream_, pool_, kPool); });
    bandwidth_ = static_cast<double>(kPool) / us / 1e6;
    std::printf("read bandwidth %.2f TB/s\n", bandwidth_);
  }

  void measure(const Heads& heads, const CacheType& cache, const Point& point) {
    const int pages = (point.history + kPageTokens) / kPageTokens;
    std::vector<int32_t> table(static_cast<size_t>(point.batch * pages));
    // No page lies beside the one before it.
    for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i / 2 + i % 2 * (table.size() + 1) / 2);
    std::vector<SequenceSlice> sequences(static_cast<size_t>(point.batch));
    std::vector<int32_t> numbers(sequences.size());
    for (int s = 0; s < point.batch; ++s) {
      sequences[static_cast<size_t>(s)] = {
          .first_token = s,
          .token_count = 1,
          .kv_length = point.history,
          .context_length = point.history,
          .page_table = std::span(table).subspan(static_cast<size_t>(s * pages), static_cast<size_t>(pages))};
      numbers[static_cast<size_t>(s)] = s;
    }
    LoadOptions options;
    options.max_tokens = options.max_rows = options.max_sequences = point.batch;
    options.kv_pages = static_cast<int>(table.size());
    KvLayer layer{.type = cache.type, .kv_heads = heads.kv, .head_dim = heads.dim};
    StepTables tables(options, 1, {tile_shape(layer, heads.q)}, kSlots);
    DeviceArena arena(DeviceArena::rounded(tables.bytes()), "tables", "");
    tables.place(arena);
    StepInput input;
    input.tokens = input.positions = input.logits_rows = numbers;
    input.sequences = sequences;
    if (!tables.fill(input, {}, Sharing())) return std::printf("too large\n"), void();
    tables.fetch(stream_);
    StepContext context;
    tables.describe(context);
    AttendCall call = call_of(heads, context);
    const size_t all = table.size() * static_cast<size_t>(heads.kv * kPageTokens);  // tokens of a layer, padding too
    const size_t bytes = all * static_cast<size_t>(heads.dim * cache.bytes);        // of keys, or of values
    const size_t layer_bytes = 2 * bytes + (cache.bytes == 1 ? 8 * all : 0);
    const size_t layers = kPool / layer_bytes;
    if (layers < 1) return std::printf("%22s", "-"), void();
    const auto launches = static_cast<int>(std::min<size_t>(layers, (size_t{256} << 20) / layer_bytes + 4));
    const double us = time_launches(stream_, launches, [&](int i) {
      char* at = pool_ + static_cast<size_t>(i) * layer_bytes;
      layer.keys = at;
      layer.values = at + bytes;
      layer.key_scales = reinterpret_cast<float*>(at + 2 * bytes);
      layer.value_scales = layer.key_scales + all;
      attend_mma(stream_, layer, call);
    });
    const double read = static_cast<double>(layer_bytes) * point.history / (pages * kPageTokens);
    std::printf("%12.1f %7.1f%%  ", us, read / us / 1e4 / bandwidth_);
  }

 private:
  // What kernels before it would leave.
  AttendCall call_of(const Heads& heads, const StepContext& context) const {
    AttendCall call;
    HeadPath path{.x = rows_, .heads = heads.q, .cos = rows_, .sin = rows_, .half = heads.dim / 2};
    call.heads.q = path;
    path.heads = heads.kv;
    call.heads.k = path;
    call.heads.v = rows_;
    call.heads.slots = context.slots;
    call.out = out_;
    call.tiles = context.tiles[0].tiles;
    call.tile_count = context.tiles[0].count;
    call.most_tiles = context.tiles[0].most;
    call.tile_rows = tile_rows(heads.q / heads.kv);
    call.pages = context.pages;
    call.positions = context.positions;
    call.masks = context.masks;
    call.partial = partial_;
    call.arrived = arrived_;
    call.q_heads = heads.q;
    call.scale = 0.1f;
    return call;
  }

  static constexpr int kSlots = 4096;  // of partial states
  cudaStream_t stream_ = nullptr;
  char* pool_ = allocate<char>(kPool);
  float* rows_ = allocate<float>(kMostRows * kMostColumns);
  float* out_ = allocate<float>(kMostRows * kMostColumns);
  float* partial_ = allocate<float>(size_t{kSlots} * 32 * kMostTileRows * 130);
  int32_t* arrived_ = allocate<int32_t>(kSlots * 32);
  double bandwidth_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  std::vector<Point> points;
  for (int i = 1; i < argc; ++i) {
    Point point{1, 0};
    if (std::sscanf(argv[i], "%d:%d", &point.batch, &point.history) != 2 || point.batch < 1 ||
        point.batch > kMostRows || point.history < 0) {
      std::fprintf(stderr, "%s: batch:history is expected, as 8:4096, with a batch of 1 to %d\n", argv[i], kMostRows);
      return 1;
    }
    points.push_back(point);
  }
  if (points.empty()) {
    for (const int history : {200, 600, 2000, 8000, 32000}) {
      for (const int batch : {1, 8, 32}) points.push_back({batch, history});
    }
  }
  Bench bench;
  std::printf("us of a layer, and %% of the bandwidth\nbatch:history");
  for (const Heads& heads : kHeads)
    for (const CacheType& cache : kCaches) std::printf("%17s %4s ", heads.name, cache.name);
  std::printf("\n");
  for (const Point& point : points) {
    std::printf("%5d:%-7d", point.batch, point.history);
    for (const Heads& heads : kHeads)
      for (const CacheType& cache : kCaches) bench.measure(heads, cache, point);
    std::printf("\n");
  }
  check(cudaGetLastError());
  return 0;
}
