// Linear kernels on random odd shapes against plain loops in double, on every instruction set of this CPU.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "backends/cpu/packed_matrix.h"
#include "base/error.h"

namespace edgewise::cpu {
namespace {

struct Case {
  DType weight;
  DType scale;
  DType zero;
  bool has_scale, has_zero, transposed, token_scales;
  int64_t k, n, block;
  double global_scale;
};

Tensor random_tensor(std::mt19937& random, DType dtype, const Shape& shape, float low, float high) {
  std::vector<float> values(static_cast<size_t>(element_count(shape)));
  std::uniform_real_distribution<float> uniform(low, high);
  for (float& value : values) value = uniform(random);
  return Tensor::from_floats(dtype, shape, values);
}

// A case's source and what it stands for.
struct Source {
  SourceMatrix matrix;
  std::vector<double> dense;  // [n][k]
  std::vector<double> bound;  // [n]: sum of |w| is not enough for rounding bounds, so the largest |w|
};

Source make_source(const Case& c, std::mt19937& random) {
  Source source;
  const int64_t block = c.has_scale ? c.block : c.k;
  const int64_t blocks = (c.k + block - 1) / block;
  const auto shape = [&](int64_t columns) { return c.transposed ? Shape{c.n, columns} : Shape{columns, c.n}; };
  float low = -1, high = 1;
  if (c.weight == DType::kI8) low = -128, high = 127;
  if (c.weight == DType::kU8) low = 0, high = 255;
  if (c.weight == DType::kI4) low = -8, high = 7;
  if (c.weight == DType::kU4) low = 0, high = 15;
  if (c.weight == DType::kF4E2M1) low = -6, high = 6;
  if (c.weight == DType::kF8E4M3) low = -20, high = 20;
  source.matrix.weight = random_tensor(random, c.weight, shape(c.k), low, high);
  if (c.has_scale) source.matrix.scale = random_tensor(random, c.scale, shape(blocks), 0.01f, 0.05f);
  if (c.has_zero) {
    const bool is_signed = c.zero == DType::kI8 || c.zero == DType::kI4;
    source.matrix.zero =
        random_tensor(random, c.zero, shape(blocks), is_signed ? -7.0f : 0.0f, is_signed ? 7.0f : 15.0f);
  }
  source.matrix.transposed = c.transposed;
  source.matrix.block = block;
  const auto q = source.matrix.weight.to_floats();
  const auto s = c.has_scale ? source.matrix.scale.to_floats() : std::vector<float>();
  const auto z = c.has_zero ? source.matrix.zero.to_floats() : std::vector<float>();
  for (int64_t n = 0; n < c.n; ++n) {
    for (int64_t k = 0; k < c.k; ++k) {
      const auto at = static_cast<size_t>(c.transposed ? n * c.k + k : k * c.n + n);
      const auto b = static_cast<size_t>(c.transposed ? n * blocks + k / block : k / block * c.n + n);
      double value = q[at];
      if (c.has_zero) value -= z[b];
      if (c.has_scale) value *= double{s[b]} * static_cast<float>(c.global_scale);
      source.dense.push_back(value);
    }
  }
  return source;
}

SourceTypes types_of(const Case& c) {
  SourceTypes types;
  types.weight = c.weight;
  types.scale = c.scale;
  types.zero = c.zero;
  types.has_scale = c.has_scale;
  types.has_zero = c.has_zero;
  types.token_scales = c.token_scales;
  types.k = c.k;
  types.n = c.n;
  types.block = c.block;
  types.global_scale = c.has_scale ? c.global_scale : 1;
  return types;
}

std::vector<float> run_kernel(Isa isa, const PackedFormat& format, const std::vector<std::byte>& packed,
                              const std::vector<float>& x, int tokens, const std::vector<float>& bias, Walk walk) {
  std::vector<float> out(static_cast<size_t>(tokens * format.n), NAN);
  LinearCall call;
  call.format = &format;
  call.weights = packed.data();
  call.bias = bias.empty() ? nullptr : bias.data();
  call.x = x.data();
  call.x_stride = format.k;
  call.tokens = tokens;
  call.out = out.data();
  call.out_stride = format.n;
  call.panel_end = format.panels;
  std::shared_ptr<std::byte> memory;
  if (is_integer(format.encoding)) {
    const QuantizedBuffer buffer(format, tokens, wants_wide_rows(isa));
    memory = allocate_aligned(buffer.bytes());
    for (int worker = 0; worker < 3; ++worker) {
      quantize_share(vector_kernels(isa), format, x.data(), format.k, tokens, buffer, memory.get(), worker, 3);
    }
    call.quantized = buffer.at(memory.get(), 0);
  }
  linear_kernel(isa, format.encoding, walk)(call);
  return out;
}

// x as the integer kernels see it.
std::vector<double> rounded(const PackedFormat& format, const std::vector<float>& x, int tokens) {
  std::vector<double> result(x.begin(), x.end());
  if (!is_integer(format.encoding)) return result;
  const int64_t group = format.token_scales ? format.k : format.group;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t begin = 0; begin < format.k; begin += group) {
      float largest = 0;
      const int64_t end = std::min(begin + group, format.k);
      for (int64_t k = begin; k < end; ++k)
        largest = std::max(largest, std::abs(x[static_cast<size_t>(t * format.k + k)]));
      const float s = largest / 127.0f;
      if (s == 0) continue;
      for (int64_t k = begin; k < end; ++k) {
        auto& value = result[static_cast<size_t>(t * format.k + k)];
        value = std::nearbyint(static_cast<float>(value) / s) * double{s};
      }
    }
  }
  return result;
}

void check_case(const Case& c, int tokens, std::mt19937& random) {
  SCOPED_TRACE(fmt::format("{} k={} n={} block={} scale={} zero={} transposed={} tokens={}", dtype_name(c.weight), c.k,
                           c.n, c.block, dtype_name(c.scale), c.has_zero, c.transposed, tokens));
  const Source source = make_source(c, random);
  PackedFormat format = choose_format(types_of(c));
  format = PackedFormat::parse(format.text(), c.k, c.n, c.block, types_of(c).global_scale);
  std::vector<std::byte> packed(format.bytes());
  pack_matrix(format, source.matrix, packed);
  std::vector<float> x(static_cast<size_t>(tokens * c.k));
  std::normal_distribution<float> normal;
  for (float& value : x) value = normal(random);
  std::vector<float> bias(tokens % 2 == 0 ? static_cast<size_t>(c.n) : 0);
  for (float& value : bias) value = normal(random);
  const auto seen = rounded(format, x, tokens);
  for (const Isa isa : supported_isas()) {
    SCOPED_TRACE(isa_name(isa));
    const auto direct = run_kernel(isa, format, packed, x, tokens, bias, Walk::kDirect);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t n = 0; n < c.n; ++n) {
        double sum = bias.empty() ? 0.0 : double{bias[static_cast<size_t>(n)]};
        double size = std::abs(sum);
        for (int64_t k = 0; k < c.k; ++k) {
          const double term = seen[static_cast<size_t>(t * c.k + k)] * source.dense[static_cast<size_t>(n * c.k + k)];
          sum += term;
          size += std::abs(term);
        }
        ASSERT_NEAR(direct[static_cast<size_t>(t * c.n + n)], sum, 3e-6 * size + 1e-6) << "token " << t << " row " << n;
      }
    }
    // Bit for bit: the other walk, and each token alone.
    const auto blocked = run_kernel(isa, format, packed, x, tokens, bias, Walk::kBlocked);
    ASSERT_EQ(std::memcmp(direct.data(), blocked.data(), direct.size() * 4), 0);
    for (int t = 0; t < tokens; t += 3) {
      const std::vector<float> alone(x.begin() + t * c.k, x.begin() + (t + 1) * c.k);
      const auto one = run_kernel(isa, format, packed, alone, 1, bias, Walk::kDirect);
      ASSERT_EQ(std::memcmp(one.data(), direct.data() + t * c.n, one.size() * 4), 0) << "token " << t;
    }
  }
}

TEST(CpuLinear, FloatWeights) {
  std::mt19937 random(1);
  for (const DType weight : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const auto& [k, n, tokens] :
         {std::tuple{1, 1, 1}, {7, 5, 3}, {129, 33, 14}, {300, 47, 29}, {64, 16, 150}, {140, 300, 101}}) {
      for (const bool transposed : {true, false}) {
        check_case({weight, DType::kF32, DType::kU8, false, false, transposed, false, k, n, 0, 1}, tokens, random);
      }
    }
  }
}

// The direct walk takes as many tokens at once as have registers.
TEST(CpuLinear, PassesOfEverySize) {
  std::mt19937 random(4);
  for (int tokens = 1; tokens <= 18; ++tokens) {
    check_case({DType::kBF16, DType::kF32, DType::kU8, false, false, true, false, 131, 50, 0, 1}, tokens, random);
    check_case({DType::kF8E4M3, DType::kF32, DType::kU8, true, false, true, false, 131, 50, 64, 0.37}, tokens, random);
  }
}

TEST(CpuLinear, ScaledFloatWeights) {
  std::mt19937 random(2);
  for (const DType weight : {DType::kF8E4M3, DType::kF4E2M1}) {
    for (const DType scale : {DType::kF32, DType::kF16, DType::kBF16, DType::kF8E4M3}) {
      for (const auto& [k, n, tokens, block] :
           {std::tuple{5, 3, 2, 16}, {160, 35, 7, 16}, {128, 20, 13, 128}, {333, 18, 5, 100}, {96, 50, 16, 1000}}) {
        check_case({weight, scale, DType::kU8, true, false, tokens % 2 == 0, false, k, n, block, 0.37}, tokens, random);
      }
    }
  }
}

TEST(CpuLinear, IntegerWeights) {
  std::mt19937 random(3);
  for (const DType weight : {DType::kI8, DType::kU8, DType::kI4, DType::kU4}) {
    for (const bool zero : {false, true}) {
      for (const auto& [k, n, tokens, block] : {std::tuple{5, 3, 2, 16},
                                                {256, 35, 7, 32},
                                                {384, 20, 13, 128},
                                                {333, 18, 5, 1000},
                                                {100, 17, 4, 10},
                                                {72, 40, 9, 24},
                                                {1000, 33, 6, 200},
                                                {100, 6, 3, 45}}) {
        const DType scale = k % 3 == 0 ? DType::kF16 : k % 3 == 1 ? DType::kBF16 : DType::kF32;
        const bool is_signed = weight == DType::kI8 || weight == DType::kI4;
        const DType zero_type = k % 2 == 0 ? weight : is_signed ? DType::kI8 : DType::kU8;
        check_case({weight, scale, zero_type, true, zero, tokens % 2 == 0, false, k, n, block, k == 256 ? 0.5 : 1},
                   tokens, random);
      }
    }
  }
}

TEST(CpuLinear, TokenScales) {
  std::mt19937 random(4);
  for (const auto& [k, n, tokens] : {std::tuple{77, 5, 1}, {512, 35, 7}, {1000, 33, 20}}) {
    check_case({DType::kI8, DType::kF32, DType::kI8, true, false, true, true, k, n, k, 1}, tokens, random);
  }
}

}  // namespace
}  // namespace edgewise::cpu
