// Attention alone, in steps that mix prompts with all else, against the reference.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "backends/cuda/backend.h"
#include "backends/cuda/executable.h"
#include "backends/reference/executable.h"
#include "backends/test_model.h"
#include "base/relative_distance.h"

namespace edgewise::cuda {
namespace {

class CudaAttentionTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const char* why = why_no_device()) GTEST_SKIP() << why;
  }
};

constexpr int64_t kVocabulary = 331;

struct Case {
  int64_t heads = 4;
  int64_t kv_heads = 2;
  int64_t head_dim = 64;
  int64_t window = 0;
  double softcap = 0;
};

// A token's query, key and value are rows of tables, and what attention makes of them is the output: nothing else is
// rounded.
Graph attention_graph(const Case& c) {
  Graph g;
  std::mt19937 random(5);
  std::uniform_real_distribution<float> uniform(-2, 2);
  const ValueId tokens = g.add_input("tokens", DType::kI32, {kTokens});
  g.add_input("positions", DType::kI32, {kTokens});
  const auto rows = [&](const std::string& name, int64_t heads) {
    const Shape shape = {kVocabulary, heads * c.head_dim};
    std::vector<float> values(static_cast<size_t>(element_count(shape)));
    for (float& value : values) value = uniform(random);
    return g.add(Op::kEmbedding, name,
                 {tokens, g.add_constant(name + ".w", Tensor::from_floats(DType::kF32, shape, values))});
  };
  const ValueId q = rows("q", c.heads);
  const ValueId k = rows("k", c.kv_heads);
  const ValueId v = rows("v", c.kv_heads);
  const ValueId x = g.add(Op::kAttention, "attention", {q, k, v},
                          {{"layer", int64_t{0}},
                           {"q_heads", c.heads},
                           {"kv_heads", c.kv_heads},
                           {"head_dim", c.head_dim},
                           {"scale", 1 / std::sqrt(static_cast<double>(c.head_dim))},
                           {"softcap", c.softcap},
                           {"window", c.window}});
  g.mark_output(g.add(Op::kSelectRows, "rows", {x}));
  return g;
}

// A step whose last sequence's rows are a tree.
struct TreeStep {
  explicit TreeStep(const StepInput& step) : input(step) {
    slices.assign(input.sequences.begin(), input.sequences.end());
    positions.assign(input.positions.begin(), input.positions.end());
    SequenceSlice& tree = slices.back();
    std::mt19937 random(3);
    for (int i = 0; i < tree.token_count; ++i) {
      const int parent = static_cast<int>(random() % static_cast<uint32_t>(i + 1)) - 1;
      masks.push_back((parent < 0 ? 0 : masks[static_cast<size_t>(parent)]) | uint64_t{1} << i);
    }
    tree.tree = masks;
    tree.tree_begin = tree.kv_length;
    for (int i = 0; i < tree.token_count; ++i) positions[static_cast<size_t>(tree.first_token + i)] = tree.position(i);
    input.sequences = slices;
    input.positions = positions;
  }
  StepInput input;
  std::vector<SequenceSlice> slices;
  std::vector<int32_t> positions;
  std::vector<uint64_t> masks;
};

// Queries are rounded in the reference too. What is left: probabilities of 16 bits, where 2^-9 or 2^-12 is the most
// that one is off, and for 8-bit caches keys and values that are halves once their scales are in them.
double bound_of(DType kv) { return kv == DType::kBF16 ? 0x1p-9 : kv == DType::kF16 ? 0x1p-12 : 0x1p-11; }

void compare(const Case& c, DType kv) {
  SCOPED_TRACE(fmt::format("{} heads of {}, {} of keys, {}, window {}, softcap {}", c.heads, c.head_dim, c.kv_heads,
                           dtype_name(kv), c.window, c.softcap));
  const Graph graph = attention_graph(c);
  const Graph fast = packed(graph, CudaBackend());
  StepMaker steps(4, 1100, kVocabulary, 5);
  LoadOptions options;
  options.max_tokens = options.max_rows = 220;
  options.max_sequences = 4;
  options.kv_pages = steps.pages();
  options.kv_dtype = kv;
  options.threads = 8;
  reference::ReferenceExecutable slow(graph, options);
  slow.round_queries(64);
  CudaExecutable quick(fast, options);
  const auto run = [&](const StepInput& input) {
    std::vector<float> expected(input.logits_rows.size() * static_cast<size_t>(c.heads * c.head_dim));
    std::vector<float> found(expected.size());
    ASSERT_EQ(slow.run(input, expected), StepOutcome::kDone);
    ASSERT_EQ(quick.run(input, found), StepOutcome::kDone);
    const auto columns = static_cast<size_t>(c.heads * c.head_dim);
    for (const SequenceSlice& sequence : input.sequences) {
      const size_t first = static_cast<size_t>(sequence.first_token) * columns;
      const size_t count = static_cast<size_t>(sequence.token_count) * columns;
      EXPECT_LT(relative_distance(std::span(found).subspan(first, count), std::span(expected).subspan(first, count)),
                bound_of(kv))
          << sequence.token_count << " rows behind " << sequence.kv_length;
    }
  };
  run(steps.next({{0, 130}, {1, 7}}));
  for (int i = 0; i < 3; ++i) run(steps.next({{0, 200}, {3, 1}}));  // until two blocks share the history
  run(steps.next({{1, 65}, {0, 150}}));  // two prompts, behind histories that end within a page
  run(steps.next({{0, 64}, {2, 65}}));   // one row makes the difference
  run(steps.next({{0, 1}, {1, 1}, {2, 1}}));
  run(TreeStep(steps.next({{3, 140}, {2, 1}, {1, 9}, {0, 40}})).input);
  run(TreeStep(steps.next({{0, 1}, {2, 1}, {1, 2}})).input);
}

constexpr DType kCaches[] = {DType::kF16, DType::kBF16, DType::kI8, DType::kF8E4M3};

TEST_F(CudaAttentionTest, PromptsOfAnyGroup) {
  for (const auto& [heads, kv_heads] : {std::pair{3, 3}, {4, 2}, {14, 2}, {16, 2}, {16, 1}}) {
    for (const DType kv : kCaches) compare({.heads = heads, .kv_heads = kv_heads}, kv);
    compare({.heads = heads, .kv_heads = kv_heads, .head_dim = 256}, DType::kBF16);
  }
}

// More tiles than blocks that run at once: they take several each, one behind the other.
TEST_F(CudaAttentionTest, ManyTiles) {
  for (const DType kv : {DType::kBF16, DType::kI8}) compare({.heads = 64, .kv_heads = 4}, kv);
}

TEST_F(CudaAttentionTest, PromptsOfAnyHead) {
  for (const int64_t head_dim : {8, 24, 72, 80, 96, 128, 200, 256}) {
    for (const DType kv : kCaches) compare({.head_dim = head_dim}, kv);
  }
}

TEST_F(CudaAttentionTest, PromptsWithWindowsAndCaps) {
  for (const int64_t head_dim : {64, 128, 256}) {
    for (const int64_t window : {1, 63, 64, 100, 400}) compare({.head_dim = head_dim, .window = window}, DType::kF16);
    for (const DType kv : kCaches) {
      compare({.head_dim = head_dim, .softcap = 3}, kv);
      compare({.heads = 7, .kv_heads = 1, .head_dim = head_dim, .window = 90, .softcap = 3}, kv);
    }
  }
}

}  // namespace
}  // namespace edgewise::cuda
