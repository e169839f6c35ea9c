// How close the Linear kernels come to this machine's limits: memory bandwidth for one token, arithmetic for
// many.
//   linear_bench [threads [format]]
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <vector>

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12's own intrinsics, its bug 105593
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#endif

#include "backends/cpu/packed_matrix.h"

namespace edgewise::cpu {
namespace {

// Seconds; of processor time when there is one thread, so that other programs on the machine matter less.
bool processor_time = false;
double now() {
  timespec time;
  clock_gettime(processor_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) uint64_t sum_avx512(const std::byte* from, size_t bytes) {
  __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
  for (size_t i = 0; i + 256 <= bytes; i += 256) {
    a = _mm512_add_epi64(a, _mm512_loadu_si512(from + i));
    b = _mm512_add_epi64(b, _mm512_loadu_si512(from + i + 64));
    c = _mm512_add_epi64(c, _mm512_loadu_si512(from + i + 128));
    d = _mm512_add_epi64(d, _mm512_loadu_si512(from + i + 192));
  }
  const __m512i all = _mm512_add_epi64(_mm512_add_epi64(a, b), _mm512_add_epi64(c, d));
  alignas(64) uint64_t lanes[8];
  _mm512_store_si512(lanes, all);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3] + lanes[4] + lanes[5] + lanes[6] + lanes[7];
}
#endif

#if defined(__x86_64__)
__attribute__((target("avx512f"))) float multiply_avx512(int64_t rounds) {
  __m512 sums[16];
  for (auto& sum : sums) sum = _mm512_setzero_ps();
  const __m512 x = _mm512_set1_ps(1.0f);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (auto& sum : sums) sum = _mm512_fmadd_ps(x, sum, x);
  }
  float total = 0;
  for (const auto& sum : sums) total += _mm512_reduce_add_ps(sum);
  return total;
}
#endif

uint64_t sum_bytes(const std::byte* from, size_t bytes) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return sum_avx512(from, bytes);
#endif
  uint64_t sum = 0;
  for (size_t i = 0; i + 8 <= bytes; i += 8) {
    uint64_t value;
    std::memcpy(&value, from + i, 8);
    sum += value;
  }
  return sum;
}

struct Bench {
  ThreadPool pool;
  Isa isa = choose_isa();
  std::shared_ptr<std::byte> memory;
  size_t size = 0;

  explicit Bench(int threads) : pool(threads) {
    size = size_t{1200} << 20;  // far more than any cache here
    memory = allocate_aligned(size, 4096);
    // A byte that is a modest number in every format.
    pool.run([&](int worker) {
      const Range share = share_of(static_cast<int64_t>(size), worker, pool.size(), 4096);
      std::memset(memory.get() + share.begin, 0x3c, static_cast<size_t>(share.end - share.begin));
    });
  }

  double bandwidth() {
    std::vector<uint64_t> sums(static_cast<size_t>(pool.size()) * 8);
    double best = 0;
    for (int i = 0; i < 5; ++i) {
      const double start = now();
      pool.run([&](int worker) {
        const Range share = share_of(static_cast<int64_t>(size / 2), worker, pool.size(), 4096);
        sums[static_cast<size_t>(worker) * 8] =
            sum_bytes(memory.get() + share.begin, static_cast<size_t>(share.end - share.begin));
      });
      best = std::max(best, static_cast<double>(size / 2) / (now() - start));
    }
    uint64_t total = 0;
    for (const uint64_t sum : sums) total += sum;
    if (total == 1) fmt::print("\n");
    return best;
  }

  // Multiply-adds in registers, as GFLOP/s; 0 without AVX-512.
  double peak() {
    double best = 0;
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("avx512f")) return 0;
    constexpr int64_t kRounds = 1 << 20;
    std::vector<float> results(static_cast<size_t>(pool.size()) * 16);
    for (int i = 0; i < 5; ++i) {
      const double start = now();
      pool.run([&](int worker) { results[static_cast<size_t>(worker) * 16] = multiply_avx512(kRounds); });
      best = std::max(best, 1e-9 * 2 * 16 * 16 * kRounds * pool.size() / (now() - start));
    }
    if (results[0] == 1) fmt::print("\n");
#endif
    return best;
  }

  // Seconds of one product, the best of a few over fresh memory.
  double seconds(const PackedFormat& format, int tokens, Walk walk, int repeats) {
    std::vector<float> x(static_cast<size_t>(tokens * format.k), 0.5f);
    std::vector<float> out(static_cast<size_t>(tokens * format.n));
    const QuantizedBuffer buffer(format, tokens, wants_wide_rows(isa));
    auto scratch = allocate_aligned(std::max<size_t>(buffer.bytes(), 64));
    const size_t copies = std::max<size_t>(1, size / format.bytes());
    double best = 1e9;
    for (int i = 0; i < repeats; ++i) {
      LinearCall call;
      call.format = &format;
      call.weights = memory.get() + static_cast<size_t>(i) % copies * format.bytes();
      call.x = x.data();
      call.x_stride = format.k;
      call.tokens = tokens;
      call.out = out.data();
      call.out_stride = format.n;
      const double start = now();
      pool.run([&](int worker) {
        LinearCall mine = call;
        if (is_integer(format.encoding)) {
          quantize_share(vector_kernels(isa), format, x.data(), format.k, tokens, buffer, scratch.get(), worker,
                         pool.size());
          pool.barrier();
          mine.quantized = buffer.at(scratch.get(), 0);
        }
        const Range share = share_of(format.panels, worker, pool.size(), 2);
        mine.panel_begin = share.begin;
        mine.panel_end = share.end;
        linear_kernel(isa, format.encoding, walk)(mine);
      });
      best = std::min(best, now() - start);
    }
    return best;
  }
};

PackedFormat make_format(Encoding encoding, int64_t k, int64_t n) {
  PackedFormat format;
  format.encoding = encoding;
  format.k = k;
  format.n = n;
  if (encoding >= Encoding::kF8E4M3) {
    format.scale = encoding == Encoding::kF4E2M1 ? ScaleKind::kF8E4M3 : ScaleKind::kF16;
    format.block = encoding == Encoding::kF4E2M1 ? 16 : encoding == Encoding::kInt4 ? 128 : 0;
    format.has_zeros = encoding == Encoding::kInt4;
    format.fixed_zero = 128;
  }
  format.finish();
  return format;
}

int run(int threads, std::string_view only) {
  Bench bench(threads);
  processor_time = bench.pool.size() == 1;
  fmt::print("{} threads, {}, {:.0f} GFLOP/s float32 in registers\n", bench.pool.size(), isa_name(bench.isa),
             bench.peak());
  fmt::print("{:8} {:>13} {:>9} {:>9} {:>6} | GFLOP/s at N =    4     128 direct   128\n", "format", "K x N", "GB/s",
             "of GB/s", "share");
  for (const auto& [k, n] : {std::pair<int64_t, int64_t>{2048, 8192}, {8192, 2048}, {2048, 128256}}) {
    for (int e = 0; e <= static_cast<int>(Encoding::kInt4); ++e) {
      const PackedFormat format = make_format(static_cast<Encoding>(e), k, n);
      if (!only.empty() && only != encoding_name(format.encoding)) continue;
      const double limit = bench.bandwidth();
      const int repeats = n > 100000 ? 8 : 40;
      const double rate = static_cast<double>(format.bytes()) / bench.seconds(format, 1, Walk::kDirect, repeats);
      fmt::print("{:8} {:5} x {:6} {:9.2f} {:9.2f} {:5.0f}%", encoding_name(format.encoding), k, n, rate / 1e9,
                 limit / 1e9, 100 * rate / limit);
      if (n < 100000) {
        // A slice of the rows: short enough to fit between two interruptions by other programs.
        const PackedFormat slice = make_format(format.encoding, k, 256 * bench.pool.size());
        const auto flops = [&](int tokens, Walk walk) {
          return 2e-9 * static_cast<double>(k * slice.n * tokens) / bench.seconds(slice, tokens, walk, 60);
        };
        fmt::print(" | {:22.0f} {:9.0f} {:9.0f}", flops(4, Walk::kDirect), flops(128, Walk::kDirect),
                   is_integer(format.encoding) ? 0.0 : flops(128, Walk::kBlocked));
      }
      fmt::print("\n");
    }
  }
  return 0;
}

}  // namespace
}  // namespace edgewise::cpu

int main(int argc, char** argv) {
  return edgewise::cpu::run(argc > 1 ? std::atoi(argv[1]) : 0, argc > 2 ? argv[2] : "");
}
