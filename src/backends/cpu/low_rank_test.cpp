// Adapters on this backend against the reference, in batches of every mix.
#include <gtest/gtest.h>

#include <cstring>

#include "backends/cpu/allocation_count.h"
#include "backends/cpu/backend.h"
#include "backends/cpu/executable.h"
#include "backends/reference/executable.h"
#include "backends/test_model.h"
#include "base/error.h"
#include "base/relative_distance.h"

namespace edgewise::cpu {
namespace {

constexpr int64_t kVocabulary = 61;

// The test model with its merged Linears' parts named, as the compiler leaves them.
Graph named_model(DType weight, bool token_scales = false) {
  TestModel model;
  model.weight = weight;
  model.experts = 2;  // a router close to a tie may choose another expert when activations are rounded
  model.token_scales = token_scales;
  if (token_scales) model.block = 1000;
  Graph graph = model.build();
  for (Node& node : graph.nodes()) {
    if (node.op != Op::kLinear || node.outputs.size() < 2) continue;
    std::string modules;
    for (size_t i = 0; i < node.outputs.size(); ++i)
      modules += (i > 0 ? " " : "") + node.name + "." + (node.outputs.size() == 3 ? "qkv"[i] : "gu"[i]);
    node.attributes[kModulesAttribute] = modules;
  }
  return graph;
}

class AdapterMaker {
 public:
  explicit AdapterMaker(uint32_t seed) : random_(seed) {}

  LowRank low_rank(int64_t n, int64_t k, int64_t rank, DType dtype) {
    return {tensor(dtype, {rank, k}), tensor(dtype, {n, rank}), 1.5f};
  }
  // One for the model: a fused module, one part of a merged Linear, plain ones, and the head; ranks of any size.
  Adapter adapter(DType dtype) {
    const TestModel m;
    const int64_t q = m.heads * m.head_dim;
    const int64_t kv = m.kv_heads * m.head_dim;
    Adapter result;
    result["layer0.qkv"] = low_rank(q + 2 * kv, m.hidden, 5, dtype);
    result["layer0.up.u"] = low_rank(m.inner, m.hidden, 1, dtype);
    result["layer0.down"] = low_rank(m.hidden, m.inner, 16, dtype);
    result["layer1.qkv.q"] = low_rank(q, m.hidden, 33, dtype);
    result["layer1.qkv.v"] = low_rank(kv, m.hidden, 7, DType::kF32);
    result["layer1.o"] = low_rank(m.hidden, q, 3, dtype);
    result["head"] = low_rank(m.vocabulary, m.hidden, 130, dtype);
    return result;
  }

 private:
  Tensor tensor(DType dtype, const Shape& shape) {
    std::uniform_real_distribution<float> uniform(-0.2f, 0.2f);
    std::vector<float> values(static_cast<size_t>(element_count(shape)));
    for (float& value : values) value = uniform(random_);
    return Tensor::from_floats(dtype, shape, values);
  }
  std::mt19937 random_;
};

LoadOptions options_for(const StepMaker& steps, int threads) {
  return {.max_tokens = 300,
          .max_sequences = 4,
          .max_rows = 300,
          .kv_pages = steps.pages(),
          .kv_dtype = DType::kF32,
          .threads = threads};
}

void add_adapters(Executable& executable) {
  AdapterMaker maker(7);
  executable.add_adapter(3, maker.adapter(DType::kBF16));
  executable.add_adapter(9, maker.adapter(DType::kF16));
}

StepMaker three_sequences() {
  StepMaker steps(3, 700, kVocabulary, 5);
  steps.use_adapter(0, 3);
  steps.use_adapter(2, 9);
  return steps;
}

void compare_with_reference(const Graph& graph, double tolerance) {
  const Graph fast = packed(graph, CpuBackend());
  for (const Isa isa : supported_isas()) {
    SCOPED_TRACE(isa_name(isa));
    StepMaker steps = three_sequences();
    const LoadOptions options = options_for(steps, 3);
    reference::ReferenceExecutable slow(graph, options);
    CpuExecutable quick(fast, options, isa);
    add_adapters(slow);
    add_adapters(quick);
    for (const auto& feeds : std::vector<std::vector<Feed>>{
             {{0, 130}, {1, 7}}, {{2, 1}}, {{1, 5}, {0, 1}, {2, 3}}, {{0, 140}}, {{0, 1}, {1, 1}, {2, 1}}}) {
      const StepInput& input = steps.next(feeds);
      std::vector<float> expected(input.logits_rows.size() * kVocabulary), found(expected.size());
      ASSERT_EQ(slow.run(input, expected), StepOutcome::kDone);
      ASSERT_EQ(quick.run(input, found), StepOutcome::kDone);
      ASSERT_LT(relative_distance(found, expected), tolerance);
    }
  }
}

TEST(LowRank, MatchesReference) {
  compare_with_reference(named_model(DType::kF32), 1e-4);
  compare_with_reference(named_model(DType::kF16), 1e-4);
  compare_with_reference(named_model(DType::kI4), 0.08);
  compare_with_reference(named_model(DType::kI8, true), 0.08);
}

// Logits of sequence 0, which has an adapter, however it is fed and whoever runs beside it.
std::vector<float> feed(const Graph& graph, Isa isa, int threads, const std::vector<std::vector<Feed>>& script) {
  StepMaker steps = three_sequences();
  CpuExecutable executable(graph, options_for(steps, threads), isa);
  add_adapters(executable);
  std::vector<float> result;
  std::vector<float> logits(300 * kVocabulary);
  for (const auto& feeds : script) {
    EXPECT_EQ(executable.run(steps.next(feeds), logits), StepOutcome::kDone);
    int64_t row = 0;
    for (const Feed& f : feeds) {
      if (f.sequence == 0)
        result.insert(result.end(), logits.begin() + row * kVocabulary, logits.begin() + (row + f.count) * kVocabulary);
      row += f.count;
    }
  }
  return result;
}

TEST(LowRank, CompanionsAndThreadsChangeNoBit) {
  for (const DType weight : {DType::kBF16, DType::kI8}) {
    const Graph graph = packed(named_model(weight), CpuBackend());
    for (const Isa isa : supported_isas()) {
      std::vector<std::vector<Feed>> alone;
      for (int i = 0; i < 300; ++i) alone.push_back({{0, 1}});
      const auto one = feed(graph, isa, 1, alone);
      const std::vector<std::vector<std::vector<Feed>>> others = {
          alone,
          {{{0, 290}}, {{0, 10}}},
          {{{1, 30}, {0, 113}, {2, 7}}, {{0, 150}, {1, 1}}, {{2, 3}, {0, 7}}, {{0, 29}}, {{2, 1}, {0, 1}, {1, 1}}}};
      for (const auto& script : others) {
        for (const int threads : {2, 3}) {
          const auto other = feed(graph, isa, threads, script);
          EXPECT_EQ(std::memcmp(one.data(), other.data(), one.size() * 4), 0) << dtype_name(weight) << isa_name(isa);
        }
      }
    }
  }
}

TEST(LowRank, ComesAndGoes) {
  const Graph graph = packed(named_model(DType::kF32), CpuBackend());
  StepMaker steps(2, 700, kVocabulary, 5), plain(2, 700, kVocabulary, 5);
  CpuExecutable executable(graph, options_for(steps, 2), supported_isas().back());
  std::vector<float> base(kVocabulary), with(kVocabulary), without(kVocabulary);
  const size_t weights = executable.memory().weights;
  EXPECT_EQ(executable.run(plain.next({{0, 1}}), base), StepOutcome::kDone);
  add_adapters(executable);
  EXPECT_GT(executable.memory().weights, weights);
  steps.use_adapter(0, 9);
  const StepInput& input = steps.next({{0, 1}});
  const int64_t before = allocation_count();
  EXPECT_EQ(executable.run(input, with), StepOutcome::kDone);
  EXPECT_EQ(allocation_count(), before);
  EXPECT_GT(relative_distance(with, base), 0.01);
  executable.remove_adapter(9);
  EXPECT_EQ(executable.run(input, without), StepOutcome::kDeviceFault);  // and no crash
  executable.remove_adapter(3);
  EXPECT_EQ(executable.memory().weights, weights);
  EXPECT_EQ(executable.run(plain.next({{1, 1}}), without), StepOutcome::kDone);
}

// Columns in another order, as GPTQ's act-order stores them: A goes along.
TEST(LowRank, FollowsGatheredColumns) {
  constexpr std::string_view kText = R"(graph g
input %tokens : i32[tokens]
const %table : f32[4, 3]
const %order : i32[3]
const %w : f32[2, 3]
%x = embedding(%tokens, %table) : f32[tokens, 3]
%m.gather = gather_columns(%x, %order) : f32[tokens, 3]
%m = linear(%m.gather, %w, %none, %none, %none) {transposed=1} : f32[tokens, 2]
output %m
)";
  Graph graph = parse_graph(kText);
  const std::vector<float> order = {2, 0, 1};
  graph.value(graph.find_value("order")).constant = [=] { return Tensor::from_floats(DType::kI32, {3}, order); };
  const std::vector<float> a = {10, 20, 30};
  const std::vector<float> b = {1, 2};
  const Adapter adapter = {
      {"m", {Tensor::from_floats(DType::kF32, {1, 3}, a), Tensor::from_floats(DType::kF32, {2, 1}, b)}}};
  const auto bound = bind_adapter(graph, adapter);
  EXPECT_EQ(bound.back().at(0).weights.a.to_floats(), (std::vector<float>{30, 10, 20}));
}

TEST(LowRank, RefusesWhatDoesNotFit) {
  const Graph graph = named_model(DType::kF32);
  AdapterMaker maker(1);
  const TestModel m;
  const auto refused = [&](const std::string& module, const LowRank& weights, const std::string& mentions) {
    try {
      bind_adapter(graph, {{module, weights}});
      ADD_FAILURE() << module << " was taken";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(mentions), std::string::npos) << error.what();
    }
  };
  refused("layer9.o", maker.low_rank(4, 4, 2, DType::kF32), "layer9.o");
  refused("layer0.qkv.x", maker.low_rank(4, 4, 2, DType::kF32), "layer0.qkv.x");
  refused("embed", maker.low_rank(m.vocabulary, m.hidden, 2, DType::kF32), "embed");
  refused("layer0.o", maker.low_rank(m.hidden + 1, m.heads * m.head_dim, 2, DType::kF32), "[72, 120]");
  refused("layer0.o", maker.low_rank(m.hidden, 4, 2, DType::kF32), "[r, 120]");
  LowRank torn = maker.low_rank(m.hidden, m.heads * m.head_dim, 2, DType::kF32);
  torn.a = torn.a.rows(0, 1);
  refused("layer0.o", torn, "[1, 120]");
}

}  // namespace
}  // namespace edgewise::cpu
