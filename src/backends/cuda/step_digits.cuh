// Products with integers: x in fixed point, as digits that are bytes themselves, so that weights are operands as they
// lie and sums of a block of columns are exact.
//
// A block of 128 columns of a token has a unit, a power of two such that its largest magnitude is below 2^22 of them.
// Each number is that many units, to the nearest, in three signed digits: v = d0 + 2^8 d1 + 2^16 d2. Digits are columns
// of the second operand of mma.m16n8k32, four columns a token.
#pragma once

#include "backends/cuda/step_packets.cuh"
#include "backends/cuda/stream_weights.cuh"

namespace edgewise::cuda {

inline constexpr int kRows = static_cast<int>(kBlockRows);
inline constexpr int kChunk = static_cast<int>(kChunkColumns);

// x in shared memory: digits [tokens][3][stride], units [tokens][blocks], and where integers have zero points the sums
// of chunks [tokens][2 * blocks].
class Digits {
 public:
  __device__ Digits(std::byte* memory, int tokens, int columns, bool sums)
      : memory_(memory),
        stride_(digit_stride(columns)),
        blocks_(digit_blocks(columns)),
        units_(reinterpret_cast<float*>(memory + tokens * kDigits * stride_)),
        sums_(sums ? units_ + tokens * blocks_ : nullptr) {}

  __device__ int blocks() const { return blocks_; }
  __device__ const std::byte* digits(int token, int digit) const {
    return memory_ + (token * kDigits + digit) * stride_;
  }
  __device__ const float* units(int token) const { return units_ + token * blocks_; }
  __device__ const float* sums(int token) const { return sums_ + token * 2 * blocks_; }

  // By a warp that has a block: each thread columns local, local + 1, local + 4 and local + 5, and its neighbour those
  // between.
  __device__ void put(int token, int local, const float4& x) {
    const float value[4] = {x.x, x.y, x.z, x.w};
    uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) largest = max(largest, __float_as_uint(value[i]) & 0x7fffffffu);
    const uint32_t exponent = max(__reduce_max_sync(~0u, largest) & kExponent, 27u << 23);
    const float scale = __uint_as_float((275u << 23) - exponent);
    uint32_t v[4];  // and 2^7 more in each digit, which makes them positive
#pragma unroll
    for (int i = 0; i < 4; ++i)
      v[i] = __float_as_uint(fmaf(value[i], scale, kMagic)) + (0x808080u - __float_as_uint(kMagic));
    // Columns 0 to 3 of eight to one thread of two, 4 to 7 to the other.
    const bool odd = this_thread() % 2 != 0;
    const uint32_t first = __shfl_xor_sync(~0u, odd ? v[0] : v[2], 1);
    const uint32_t second = __shfl_xor_sync(~0u, odd ? v[1] : v[3], 1);
    const uint32_t of[4] = {odd ? first : v[0], odd ? second : v[1], odd ? v[2] : first, odd ? v[3] : second};
    // As bytes of a row of weights stand: columns 0, 2, 1, 3.
    const uint32_t even_low = __byte_perm(of[0], of[2], 0x5140);
    const uint32_t odd_low = __byte_perm(of[1], of[3], 0x5140);
    const uint32_t even_high = __byte_perm(of[0], of[2], 0x0062);
    const uint32_t odd_high = __byte_perm(of[1], of[3], 0x0062);
    std::byte* to = memory_ + token * kDigits * stride_ + local + (odd ? 2 : 0);
    store(to, __byte_perm(even_low, odd_low, 0x5410));
    store(to + stride_, __byte_perm(even_low, odd_low, 0x7632));
    store(to + 2 * stride_, __byte_perm(even_high, odd_high, 0x5410));
    const float unit = exponent == kExponent ? NAN : __uint_as_float(exponent - (21u << 23));
    if (this_thread() % 32 == 0) units_[token * blocks_ + local / kDigitBlock] = unit;
    if (sums_ != nullptr) add_up(token, local, static_cast<int>(v[0] + v[1] + v[2] + v[3] - 4 * 0x808080u), unit);
  }

 private:
  static constexpr uint32_t kExponent = 0x7f800000u;
  static constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: a sum with it has its units in the mantissa

  __device__ static void store(std::byte* to, uint32_t digits) {
    *reinterpret_cast<uint32_t*>(to) = digits ^ 0x80808080u;
  }
  // Half a warp has a chunk.
  __device__ void add_up(int token, int local, int sum, float unit) {
#pragma unroll
    for (int offset = 8; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    if (this_thread() % 16 == 0) sums_[token * 2 * blocks_ + local / kChunk] = static_cast<float>(sum) * unit;
  }

  std::byte* memory_;
  int stride_;
  int blocks_;
  float* units_;
  float* sums_;
};

// A warp's sums over its chunks of one block of rows, for 2 * kPairs tokens. Lane (g, t) has rows g and g + 8 and of
// token t / 2 of a pair the two lower digits, or the upper one. kZeros: the zero points of integers are stored.
template <Encoding kEncoding, bool kScaled, bool kZeros, int kPairs>
class DigitProduct {
 public:
  using Piece = Chunk<kEncoding>;

  __device__ DigitProduct(const StepShape& shape, const Digits& x, int tokens, int thread)
      : lane_(thread % 32), scale_magic_(shape.scale_magic), last_column_(shape.scale_columns - 1) {
    const int g = lane_ / 4;
    const int t = lane_ % 4;
#pragma unroll
    for (int p = 0; p < kPairs; ++p) {
      // Columns that no token has repeat others: nobody looks at their products.
      x_[p] = x.digits(min(2 * p + g / 4, tokens - 1), min(g % 4, kDigits - 1)) + t * 16;
      const int token = min(2 * p + t / 2, tokens - 1);
      units_[p] = x.units(token);
      if constexpr (kZeros) sums_[p] = x.sums(token);
    }
    signs_ = 0x80808080u + (static_cast<uint32_t>(thread) >> 12);  // which the compiler does not see through
    second_digit_ = t % 2 == 0 ? 256 : 0;
  }

  __device__ int scale_column(int chunk) const {
    return kScaled ? min(static_cast<int>(static_cast<unsigned>(chunk) * scale_magic_ >> 20), last_column_) : 0;
  }

  // kCount chunks from number `local` of the slice on, within a block of digits and a scale. `weights`, `scales` and
  // `zeros`: theirs, in a stage.
  template <int kCount>
  __device__ void add(const std::byte* weights, int local, const std::byte* scales, const std::byte* zeros) {
    int sum[kPairs][4] = {};
#pragma unroll
    for (int c = 0; c < kCount; ++c) {
      Piece piece;
      const auto* words = reinterpret_cast<const uint4*>(weights) + c * Piece::kWords * 32 + lane_;
#pragma unroll
      for (int w = 0; w < Piece::kWords; ++w) piece.words[w] = words[w * 32];
      uint4 x[kPairs];
#pragma unroll
      for (int p = 0; p < kPairs; ++p) x[p] = *reinterpret_cast<const uint4*>(x_[p] + (local + c) * kChunk);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        uint32_t a[4];
        integer_operand<kEncoding>(piece, j, signs_, a);
#pragma unroll
        for (int p = 0; p < kPairs; ++p)
          multiply_integer_tile(sum[p], a, j == 0 ? x[p].x : x[p].z, j == 0 ? x[p].y : x[p].w);
      }
    }
    float2 scale = {1, 1};
    if constexpr (kScaled) scale = reinterpret_cast<const float2*>(scales)[lane_ / 4];
#pragma unroll
    for (int p = 0; p < kPairs; ++p) {
      const float unit = units_[p][local / 2];
      const float2 times = kScaled ? float2{scale.x * unit, scale.y * unit} : float2{unit, unit};
      total_[p][0] = fmaf(static_cast<float>(sum[p][0] + sum[p][1] * second_digit_), times.x, total_[p][0]);
      total_[p][1] = fmaf(static_cast<float>(sum[p][2] + sum[p][3] * second_digit_), times.y, total_[p][1]);
      if constexpr (kZeros) {
        if (second_digit_ == 0) continue;  // once a token
        const float2 zero = __half22float2(reinterpret_cast<const __half2*>(zeros)[lane_ / 4]);
        float of_chunks = sums_[p][local];
        if constexpr (kCount == 2) of_chunks += sums_[p][local + 1];
        of_chunks *= -1.0f / kIntegerUnit<kEncoding>;
        total_[p][0] = fmaf((zero.x - kMiddle<kEncoding>)*of_chunks, scale.x, total_[p][0]);
        total_[p][1] = fmaf((zero.y - kMiddle<kEncoding>)*of_chunks, scale.y, total_[p][1]);
      }
    }
  }

  // Of rows g and g + 8, to [tokens][rows] at `sums`; begins anew.
  __device__ void end(float* sums, int tokens) {
    const int g = lane_ / 4;
    const int t = lane_ % 4;
    const float unit = second_digit_ != 0 ? kIntegerUnit<kEncoding> : 65536 * kIntegerUnit<kEncoding>;
#pragma unroll
    for (int p = 0; p < kPairs; ++p) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float found = total_[p][r] * unit;
        found += __shfl_xor_sync(~0u, found, 1);
        const int token = 2 * p + t / 2;
        if (t % 2 == 0 && token < tokens) sums[token * kRows + g + 8 * r] = found;
        total_[p][r] = 0;
      }
    }
  }

 private:
  int lane_;
  uint32_t scale_magic_;
  int last_column_;
  const std::byte* x_[kPairs];
  const float* units_[kPairs];
  const float* sums_[kPairs] = {};
  int second_digit_;  // what it counts
  uint32_t signs_;
  float total_[kPairs][2] = {};
};

}  // namespace edgewise::cuda
