// A sequence's logits depend on nothing but itself, bit for bit.
#include "backends/cuda/executable_test.h"

namespace edgewise::cuda {
namespace {

// Of sequence 0, in an executable of its own.
std::vector<float> logits_of(const TestModel& model, const Graph& graph, DType kv, int length, const Script& script) {
  StepMaker steps(3, length, model.vocabulary, 5);
  CudaExecutable executable(graph, options_for(steps, kv));
  return logits_of_first(executable, steps, script, model.vocabulary);
}

// They do not depend on what else is in the step.
TEST_F(CudaExecutableTest, CompanyChangesNoBit) {
  for (const DType weight : {DType::kF32, DType::kBF16, DType::kI4}) {
    TestModel model;
    model.weight = weight;
    model.block = 64;
    const Graph graph = packed(model.build(), CudaBackend());
    const auto feed = [&](const Script& script) { return logits_of(model, graph, DType::kBF16, 700, script); };
    // The kernels for up to four tokens, then those for up to 64: within each, company changes nothing.
    const auto few = feed({{{0, 4}}, {{0, 1}}, {{0, 1}}, {{0, 2}}});
    EXPECT_EQ(feed({{{0, 4}}, {{0, 1}, {1, 2}}, {{2, 3}, {0, 1}}, {{2, 1}, {0, 2}, {1, 1}}}), few);
    const auto many = feed({{{0, 40}}, {{0, 9}}});
    EXPECT_EQ(feed({{{1, 9}, {0, 40}}, {{2, 20}, {0, 9}}}), many);
    EXPECT_EQ(feed({{{0, 21}}, {{0, 19}, {1, 3}}, {{2, 1}, {0, 9}}}), many);
  }
}

// Nor do they depend on whether attention prepares its heads, which another kernel does where some sequence's rows are
// several tiles. Sequence 0's rows lie in two pages at first, then in two blocks' pages.
TEST_F(CudaExecutableTest, HeadsPreparedApartChangeNoBit) {
  for (const int64_t head_dim : {24, 64, 128, 256}) {
    for (const DType kv : {DType::kF16, DType::kBF16, DType::kI8, DType::kF8E4M3}) {
      TestModel model;
      model.weight = DType::kBF16;
      model.heads = 14;
      model.head_dim = head_dim;
      const Graph graph = packed(model.build(), CudaBackend());
      const auto feed = [&](const Script& script) { return logits_of(model, graph, kv, 700, script); };
      const auto together = feed({{{0, 127}},
                                  {{0, 2}, {1, 2}, {2, 1}},
                                  {{0, 254}},
                                  {{0, 256}},
                                  {{1, 2}, {0, 2}, {2, 2}},
                                  {{0, 1}, {1, 1}},
                                  {{0, 1}, {1, 2}}});
      EXPECT_EQ(feed({{{0, 127}},
                      {{0, 2}, {1, 9}},
                      {{0, 254}},
                      {{0, 256}},
                      {{1, 30}, {0, 2}},
                      {{0, 1}, {1, 3}},
                      {{2, 3}, {0, 1}}}),
                together)
          << head_dim << " " << dtype_name(kv);
    }
  }
}

// Nor on how many warps attend over a tile, which are fewer where tiles are many.
TEST_F(CudaExecutableTest, ManyTilesChangeNoBit) {
  for (const int64_t head_dim : {64, 128}) {
    TestModel model;
    model.heads = 14;
    model.head_dim = head_dim;
    const Graph graph = packed(model.build(), CudaBackend());
    const auto feed = [&](const Script& last) {
      Script script;
      for (const int sequence : {1, 2, 0}) {
        for (const int tokens : {300, 300, 70}) script.push_back({{sequence, tokens}});
      }
      script.insert(script.end(), last.begin(), last.end());
      return logits_of(model, graph, DType::kBF16, 800, script);
    };
    EXPECT_EQ(feed({{{1, 28}, {0, 9}, {2, 27}}, {{0, 6}}}), feed({{{0, 9}}, {{2, 29}, {0, 6}, {1, 29}}}));
  }
}

// Nor on how many queries share a tile: one row's are 7 here, two rows' 14.
TEST_F(CudaExecutableTest, RowsOfATileChangeNoBit) {
  for (const int64_t head_dim : {64, 128}) {
    for (const DType kv : {DType::kBF16, DType::kI8}) {
      TestModel model;
      model.weight = DType::kBF16;
      model.heads = 14;
      model.head_dim = head_dim;
      const Graph graph = packed(model.build(), CudaBackend());
      const auto feed = [&](const Script& last) {
        Script script(4, {{0, 300}});
        script.insert(script.end(), last.begin(), last.end());
        return logits_of(model, graph, kv, 1500, script);
      };
      EXPECT_EQ(feed({{{0, 1}, {1, 5}}, {{0, 1}, {2, 5}}, {{0, 1}, {2, 5}}}),
                feed({{{0, 2}, {1, 5}}, {{0, 1}, {2, 5}}}))
          << head_dim << " " << dtype_name(kv);
    }
  }
}

TEST_F(CudaExecutableTest, ManySequencesChangeNoBit) {
  TestModel model;
  model.heads = 16;
  model.kv_heads = 8;
  model.head_dim = 64;
  const Graph graph = packed(model.build(), CudaBackend());
  const auto feed = [&](int sequences) {
    constexpr int kMost = 64;
    StepMaker steps(kMost, 700, model.vocabulary, 5);
    LoadOptions options = options_for(steps, DType::kBF16);
    options.max_sequences = kMost;
    CudaExecutable executable(graph, options);
    Script script;
    for (int i = 0; i < sequences; ++i) {
      for (const int tokens : {300, 300, 45}) script.push_back({{i, tokens}});
    }
    std::vector<Feed> all;
    for (int i = 0; i < sequences; ++i) all.push_back({i, 1});
    script.insert(script.end(), 2, all);
    return logits_of_first(executable, steps, script, model.vocabulary);
  };
  EXPECT_EQ(feed(64), feed(5));
}

TEST_F(CudaExecutableTest, CompanyChangesNoBitOfProgram) {
  for (const DType weight : {DType::kBF16, DType::kI4}) {
    TestModel model;
    model.weight = weight;
    model.head_dim = 64;
    model.block = 64;
    const Graph graph = packed(model.build_decoder(2), CudaBackend());
    const auto feed = [&](const Script& script) { return logits_of(model, graph, DType::kBF16, 700, script); };
    const auto alone = feed({{{0, 300}}, {{0, 150}}, {{0, 4}}, {{0, 1}}, {{0, 1}}, {{0, 2}}});
    EXPECT_EQ(feed({{{0, 300}}, {{0, 150}}, {{0, 4}}, {{0, 1}, {1, 2}}, {{2, 3}, {0, 1}}, {{2, 1}, {0, 2}, {1, 1}}}),
              alone);
    EXPECT_EQ(feed({{{0, 300}}, {{0, 150}}, {{0, 1}}, {{0, 3}}, {{0, 1}, {1, 2}}, {{2, 1}, {0, 2}, {1, 1}}, {{0, 1}}}),
              alone);
  }
}

}  // namespace
}  // namespace edgewise::cuda
