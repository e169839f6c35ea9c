// Products on the GPU against the reference backend, on random odd shapes around the numbers of tokens where another
// kernel takes over.
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "backends/cuda/backend.h"
#include "backends/cuda/device.h"
#include "backends/cuda/executable.h"
#include "backends/cuda/kernels.h"
#include "backends/reference/executable.h"
#include "backends/test_model.h"
#include "base/error.h"
#include "base/relative_distance.h"

namespace edgewise::cuda {
namespace {

class CudaLinearTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const char* why = why_no_device()) GTEST_SKIP() << why;
  }
};

struct Matrix {
  DType weight;
  int64_t block = 0;  // 0: no scales
  bool zeros = false;
  bool token_scales = false;
  DType scale = DType::kF32;
};

Tensor random_tensor(std::mt19937& random, DType dtype, const Shape& shape, float low, float high) {
  std::vector<float> values(static_cast<size_t>(element_count(shape)));
  std::uniform_real_distribution<float> uniform(low, high);
  for (float& value : values) value = uniform(random);
  return Tensor::from_floats(dtype, shape, values);
}

float largest_code(DType dtype) {
  switch (dtype) {
    case DType::kI8:
      return 127;
    case DType::kU8:
      return 255;
    case DType::kI4:
      return 7;
    case DType::kU4:
      return 15;
    case DType::kF4E2M1:
      return 6;
    default:
      return 1;
  }
}

// A Linear with parts of so many rows, the first with a bias.
std::vector<ValueId> add_product(Graph& graph, const std::string& name, const Matrix& m, ValueId x, int64_t k,
                                 const std::vector<int64_t>& parts, std::mt19937& random) {
  std::vector<ValueId> inputs = {x};
  for (size_t i = 0; i < parts.size(); ++i) {
    const int64_t rows = parts[i];
    const std::string part = name + std::to_string(i);
    const float most = largest_code(m.weight);
    const bool is_unsigned = m.weight == DType::kU8 || m.weight == DType::kU4;
    inputs.push_back(
        graph.add_constant(part + "w", random_tensor(random, m.weight, {rows, k}, is_unsigned ? 0 : -most, most)));
    const int64_t block = m.block == 0 ? k : m.block;
    const Shape blocks = {rows, (k + block - 1) / block};
    inputs.push_back(
        m.block == 0 ? kNone : graph.add_constant(part + "s", random_tensor(random, m.scale, blocks, 0.01f, 0.05f)));
    inputs.push_back(m.zeros ? graph.add_constant(part + "z", random_tensor(random, m.weight, blocks, 0, most))
                             : kNone);
    inputs.push_back(i == 0 ? graph.add_constant(part + "b", random_tensor(random, DType::kF32, {rows}, -1, 1))
                            : kNone);
  }
  Attributes attributes = {{"transposed", int64_t{1}}};
  if (m.block != 0) attributes["block"] = std::min(m.block, k);
  if (m.token_scales) attributes["activation"] = std::string("int8");
  return graph.add_node(Op::kLinear, name, inputs, attributes);
}

// One Linear with parts of n and half as many rows.
Graph make_graph(const Matrix& m, int64_t n, int64_t k, std::mt19937& random) {
  Graph graph;
  const ValueId x = graph.add_input(std::string(kHiddenInput), DType::kF32, {kTokens, k});
  for (const ValueId out : add_product(graph, "product", m, x, k, {n, (n + 1) / 2}, random)) graph.mark_output(out);
  return graph;
}

LoadOptions options_of(int tokens) {
  LoadOptions options;
  options.max_tokens = tokens;
  options.kv_pages = 1;
  return options;
}

std::vector<float> multiply(Executable& executable, const std::vector<float>& x, int64_t tokens, int64_t n) {
  std::vector<float> first(static_cast<size_t>(tokens * n));
  std::vector<float> second(static_cast<size_t>(tokens * ((n + 1) / 2)));
  StepInput input;
  input.hidden = x;
  const std::vector<std::span<float>> outputs = {first, second};
  EXPECT_EQ(executable.run(input, outputs), StepOutcome::kDone);
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

// Activations are rounded to 11 bits, or to 16 where they are pairs and to 8 where such tokens are many.
double tolerance(const Matrix& m, int64_t tokens) {
  if (m.weight == DType::kBF16) return tokens > 64 ? 4e-3 : 4e-5;
  if (m.token_scales) return 0.02;
  return m.zeros ? 4e-3 : 1e-3;
}

TEST_F(CudaLinearTest, MatchesReference) {
  const Matrix matrices[] = {{DType::kBF16},
                             {DType::kF16},
                             {DType::kF8E4M3, 10000},
                             {DType::kF8E4M3, 128},
                             {DType::kF4E2M1, 16, false, false, DType::kF8E4M3},
                             {DType::kI8, 10000},
                             {DType::kI8, 10000, false, true},
                             {DType::kI8, 64},
                             {DType::kU8, 48, true},
                             {DType::kI4, 128},
                             {DType::kU4, 128, true},
                             {DType::kI4, 32},
                             {DType::kU4, 16, true}};
  std::mt19937 random(11);
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{1000, 328}, {61, 1104}, {203, 72}}) {
    for (const Matrix& m : matrices) {
      const Graph graph = make_graph(m, n, k, random);
      const LoadOptions options = options_of(400);
      reference::ReferenceExecutable slow(graph, options);
      const Graph fast = packed(graph, CudaBackend());
      CudaExecutable quick(fast, options);
      for (const int64_t tokens : {1, 5, 8, 17, 33, 64, 65, 130, 257, 400}) {
        SCOPED_TRACE(fmt::format("{} blocks of {}, {} x {}, {} tokens", dtype_name(m.weight), m.block, n, k, tokens));
        std::vector<float> x = random_tensor(random, DType::kF32, {tokens, k}, -2, 2).to_floats();
        // One token that halves do not hold, and one that is small for them.
        for (int64_t i = 0; i < k; ++i) {
          if (tokens > kMostDecodeTokens) x[static_cast<size_t>(i)] *= 1e5f;
          if (tokens > 1) x[static_cast<size_t>(k + i)] *= 1e-6f;
        }
        const auto found = multiply(quick, x, tokens, n);
        const auto expected = multiply(slow, x, tokens, n);
        for (int64_t t = 0; t < tokens; ++t) {
          const auto row = [&](const std::vector<float>& all) {
            std::vector<float> both(all.begin() + t * n, all.begin() + (t + 1) * n);
            const int64_t half = (n + 1) / 2;
            both.insert(both.end(), all.begin() + tokens * n + t * half, all.begin() + tokens * n + (t + 1) * half);
            return both;
          };
          ASSERT_LT(relative_distance(row(found), row(expected)), tolerance(m, tokens)) << "token " << t;
        }
      }
    }
  }
}

// A token's product does not depend on how many stand beside it; what comes of few tokens by another kernel is nearly
// the same. Matrices are such that all columns are one block's or several's, and rows one tile's or several's.
void expect_no_company() {
  std::mt19937 random(12);
  for (const Matrix& m : {Matrix{DType::kBF16}, {DType::kF8E4M3, 10000}, {DType::kI4, 128}, {DType::kU4, 16, true}}) {
    const bool is_large = m.weight == DType::kI4 || m.weight == DType::kBF16;
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{700, 2000},
                               {40, 300},
                               {1500, 4200},
                               {30000, 640},
                               {26000, 256},
                               {is_large ? 90000 : 9000, 640}}) {
      const Graph graph = packed(make_graph(m, n, k, random), CudaBackend());
      const LoadOptions options = options_of(64);
      CudaExecutable executable(graph, options);
      const std::vector<float> x = random_tensor(random, DType::kF32, {64, k}, -2, 2).to_floats();
      const auto of_first = [&](int64_t tokens) {
        auto all = multiply(executable, {x.begin(), x.begin() + tokens * k}, tokens, n);
        all.resize(static_cast<size_t>(5 * n));
        return all;
      };
      const auto expected = of_first(64);
      auto few = multiply(executable, {x.begin(), x.begin() + 4 * k}, 4, n);
      few.resize(static_cast<size_t>(4 * n));
      EXPECT_LT(relative_distance(few, {expected.begin(), expected.begin() + 4 * n}), 2 * tolerance(m, 5));
      for (const int64_t tokens : {5, 8, 9, 16, 20, 32, 33, 50}) EXPECT_EQ(of_first(tokens), expected) << tokens;
    }
  }
}
TEST_F(CudaLinearTest, CompanyChangesNoBit) { expect_no_company(); }
TEST_F(CudaLinearTest, BitsStayOnOtherGpusToo) {
  groups_allowed = false;
  expect_no_company();
  groups_allowed = true;
}

// Gate and up of an activation, and the product behind: rows in one tile and in several, columns shared out or not, and
// tokens whose gated numbers halves do not hold, or hardly. Company changes no bit.
TEST_F(CudaLinearTest, GatesOfAnySize) {
  std::mt19937 random(13);
  constexpr int64_t kOut = 48;
  for (const Matrix& m : {Matrix{DType::kF16}, {DType::kF8E4M3, 10000}, {DType::kI4, 128}, {DType::kBF16}}) {
    for (const auto& [k, inner] : {std::pair<int64_t, int64_t>{320, 192}, {128, 5632}, {64, 34048}}) {
      Graph graph;
      const ValueId x = graph.add_input(std::string(kHiddenInput), DType::kF32, {kTokens, k});
      const auto both = add_product(graph, "both", m, x, k, {inner, inner}, random);
      const ValueId gated = graph.add(Op::kSwiGlu, "gated", {both[0], both[1]});
      graph.mark_output(add_product(graph, "down", m, gated, inner, {kOut}, random)[0]);
      const LoadOptions options = options_of(64);
      reference::ReferenceExecutable slow(graph, options);
      const Graph fast = packed(graph, CudaBackend());
      CudaExecutable quick(fast, options);
      std::vector<float> activations = random_tensor(random, DType::kF32, {64, k}, -1, 1).to_floats();
      for (int64_t i = 0; i < k; ++i) {
        activations[static_cast<size_t>(k + i)] *= 1e4f;
        activations[static_cast<size_t>(3 * k + i)] *= 1e-5f;
      }
      const auto run = [&](Executable& executable, int64_t tokens) {
        std::vector<float> out(static_cast<size_t>(tokens * kOut));
        StepInput input;
        input.hidden = std::span(activations).first(static_cast<size_t>(tokens * k));
        const std::span<float> outputs[] = {out};
        EXPECT_EQ(executable.run(input, outputs), StepOutcome::kDone);
        return out;
      };
      const auto expected = run(slow, 64);
      const auto all = run(quick, 64);
      for (size_t t = 0; t < 64; ++t) {
        const auto row = [&](const std::vector<float>& rows) {
          return std::vector<float>(rows.begin() + t * kOut, rows.begin() + (t + 1) * kOut);
        };
        ASSERT_LT(relative_distance(row(all), row(expected)), 3 * tolerance(m, 64)) << dtype_name(m.weight) << t;
      }
      for (const int64_t tokens : {5, 8, 9, 16, 32, 33})
        EXPECT_EQ(run(quick, tokens), std::vector<float>(all.begin(), all.begin() + tokens * kOut)) << tokens;
    }
  }
}

// Without a GPU: blocks that share out a matrix's columns have some each, and a tile that their inboxes hold.
TEST(GroupShapes, AreWhatInboxesHold) {
  constexpr int kMultiprocessors = 132;
  std::mt19937 random(5);
  std::set<int> ranks, ways;
  for (int i = 0; i < 2000; ++i) {
    const auto chunks = static_cast<int>(random() % 300) + 1;
    const auto blocks = static_cast<int>(random() % (random() % 2 == 0 ? 100 : 3000)) + 1;
    const GroupShape shape = choose_group_shape(blocks, chunks, kMultiprocessors);
    ASSERT_LE(shape.ranks, chunks);
    if (shape.ranks * shape.ways > 1) {
      ASSERT_LE(blocks * shape.ranks, kMultiprocessors * 16 / shape.ways);
    }
    ranks.insert(shape.ranks);
    ways.insert(shape.ways);
  }
  EXPECT_EQ(ranks, (std::set<int>{1, 2, 4, 8}));
  EXPECT_EQ(ways, (std::set<int>{1, 2, 4}));
  EXPECT_EQ(choose_group_shape(2368, 56, kMultiprocessors).ranks, 1);  // gate and up of Qwen2.5-7B
  EXPECT_EQ(choose_group_shape(224, 296, kMultiprocessors).ranks, 8);  // its down
}

}  // namespace
}  // namespace edgewise::cuda
