// Whole models on this backend against the reference backend, bit-for-bit invariance, and no allocation in a
// step.
#include "backends/cpu/executable.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>

#include "backends/cpu/allocation_count.h"
#include "backends/cpu/backend.h"
#include "backends/reference/executable.h"
#include "backends/test_model.h"
#include "base/error.h"
#include "base/relative_distance.h"

namespace edgewise::cpu {
namespace {

void compare_with_reference(const TestModel& model, DType kv, double tolerance) {
  SCOPED_TRACE(dtype_name(model.weight));
  const Graph graph = model.build();
  const Graph fast = packed(graph, CpuBackend());
  for (const Isa isa : supported_isas()) {
    SCOPED_TRACE(isa_name(isa));
    StepMaker steps(3, 700, model.vocabulary, 5);
    const LoadOptions options = options_for(steps, kv, 2);
    reference::ReferenceExecutable slow(graph, options);
    CpuExecutable quick(fast, options, isa);
    const std::vector<std::vector<Feed>> script = {
        {{0, 130}, {1, 7}}, {{2, 1}}, {{1, 5}, {0, 1}, {2, 3}}, {{0, 140}}, {{0, 1}, {1, 1}}};
    for (const auto& feeds : script) {
      const StepInput& input = steps.next(feeds);
      const NodeOutputs expected = observed(slow, input, model.vocabulary);
      const NodeOutputs found = observed(quick, input, model.vocabulary);
      ASSERT_EQ(first_difference(graph, found, expected, tolerance), "");
    }
  }
}

TEST(CpuExecutable, MatchesReferenceFloat) {
  TestModel model;
  compare_with_reference(model, DType::kF32, 1e-4);
  model.weight = DType::kBF16;
  model.transposed = false;
  compare_with_reference(model, DType::kBF16, 1e-2);  // a key may round to its neighbour in the cache
  model.weight = DType::kF16;
  compare_with_reference(model, DType::kF16, 2e-3);
}

// A key may round to its neighbour, 1/127 of the head's largest or 1/16 of its own size away.
TEST(CpuExecutable, MatchesReferenceQuantizedCache) {
  const TestModel model;
  compare_with_reference(model, DType::kI8, 1e-2);
  compare_with_reference(model, DType::kF8E4M3, 3e-2);
}

TEST(CpuExecutable, MatchesReferenceScaledFloat) {
  TestModel model;
  model.weight = DType::kF8E4M3;
  compare_with_reference(model, DType::kF32, 1e-4);
  model.weight = DType::kF4E2M1;
  model.scale = DType::kF8E4M3;
  model.block = 16;
  compare_with_reference(model, DType::kF32, 1e-4);
}

// A router close to a tie may choose another expert when activations are rounded, hence one expert here.
TEST(CpuExecutable, MatchesReferenceInteger) {
  TestModel model;
  model.experts = 2;
  for (const DType weight : {DType::kI8, DType::kI4, DType::kU4}) {
    model.weight = weight;
    model.zeros = weight == DType::kU4;
    model.transposed = weight != DType::kI4;
    compare_with_reference(model, DType::kF32, 0.08);
  }
}

TEST(CpuExecutable, MatchesReferenceTokenScales) {
  TestModel model;
  model.weight = DType::kI8;
  model.token_scales = true;
  model.block = 1000;
  model.experts = 2;
  compare_with_reference(model, DType::kF32, 0.08);
}

// Logits of sequence 0's tokens, however it is fed.
std::vector<float> feed(const Graph& graph, Isa isa, int threads, const std::vector<std::vector<Feed>>& script,
                        DType kv = DType::kBF16) {
  StepMaker steps(3, 700, 61, 5);
  CpuExecutable executable(graph, options_for(steps, kv, threads), isa);
  return logits_of_first(executable, steps, script, 61);
}

TEST(CpuExecutable, CompanionsAndThreadsChangeNoBit) {
  TestModel model;
  for (const DType weight : {DType::kBF16, DType::kI8, DType::kI4, DType::kF4E2M1}) {
    model.weight = weight;
    model.block = weight == DType::kF4E2M1 ? 16 : 24;
    const Graph graph = packed(model.build(), CpuBackend());
    for (const Isa isa : supported_isas()) {
      std::vector<std::vector<Feed>> alone;
      for (int i = 0; i < 300; ++i) alone.push_back({{0, 1}});
      const auto one = feed(graph, isa, 1, alone);
      const auto two = feed(graph, isa, 2, alone);
      const auto chunks = feed(graph, isa, 2, {{{0, 290}}, {{0, 10}}});
      const auto mixed =
          feed(graph, isa, 3, {{{1, 30}, {0, 113}, {2, 7}}, {{0, 150}, {1, 1}}, {{2, 3}, {0, 7}}, {{0, 30}}});
      EXPECT_EQ(std::memcmp(one.data(), two.data(), one.size() * 4), 0) << dtype_name(weight) << isa_name(isa);
      EXPECT_EQ(std::memcmp(one.data(), chunks.data(), one.size() * 4), 0) << dtype_name(weight) << isa_name(isa);
      EXPECT_EQ(std::memcmp(one.data(), mixed.data(), one.size() * 4), 0) << dtype_name(weight) << isa_name(isa);
    }
  }
}

TEST(CpuExecutable, QuantizedCacheChangesNoBitEither) {
  const Graph graph = packed(TestModel().build(), CpuBackend());
  for (const DType kv : {DType::kI8, DType::kF8E4M3}) {
    for (const Isa isa : supported_isas()) {
      const auto whole = feed(graph, isa, 1, {{{0, 290}}, {{0, 10}}}, kv);
      const auto mixed = feed(graph, isa, 3, {{{1, 30}, {0, 113}}, {{0, 150}, {1, 1}}, {{0, 7}}, {{0, 30}}}, kv);
      EXPECT_EQ(std::memcmp(whole.data(), mixed.data(), whole.size() * 4), 0) << dtype_name(kv) << isa_name(isa);
    }
  }
}

// Each row of a tree has the bits of the chain of its ancestors; so has what comes after their slots were moved.
void compare_tree_with_chains(const Graph& plain, DType kv, int prompt, int nodes, Isa isa) {
  SCOPED_TRACE(std::string(dtype_name(kv)) + " " + std::to_string(prompt) + " + " + std::to_string(nodes));
  const Graph graph = packed(plain, CpuBackend());
  LoadOptions options;
  options.max_tokens = options.max_rows = 400;
  options.kv_pages = 8;
  options.kv_dtype = kv;
  options.threads = 2;
  TreeRun run(prompt, nodes, static_cast<uint32_t>(prompt * 64 + nodes));
  CpuExecutable quick(graph, options, isa);
  CpuExecutable chains(graph, options, isa);
  reference::ReferenceExecutable slow(plain, options);
  for (Executable* executable :
       {static_cast<Executable*>(&quick), static_cast<Executable*>(&chains), static_cast<Executable*>(&slow)}) {
    run.chain(*executable, 0, run.tokens);
  }
  // In two levels, as drafts are made, then at once, as they are verified.
  const auto first = run.tree(quick, 0, nodes / 2);
  auto found = run.tree(quick, nodes / 2, nodes);
  found.insert(found.begin(), first.begin(), first.end());
  EXPECT_EQ(run.tree(quick, 0, nodes), found);
  EXPECT_LT(relative_distance(found, run.tree(slow, 0, nodes)), kv == DType::kF32 ? 1e-4 : 3e-2);
  constexpr auto kVocabulary = static_cast<std::ptrdiff_t>(TreeRun::kVocabulary);
  std::vector<int32_t> path;
  for (int node = 0; node < nodes; ++node) {
    const auto slots = run.ancestors(static_cast<size_t>(node));
    std::vector<int32_t> ids;
    for (const int32_t slot : slots) ids.push_back(run.node_tokens[static_cast<size_t>(slot)]);
    const auto expected = run.chain(chains, prompt, ids);
    const std::vector<float> row(found.begin() + node * kVocabulary, found.begin() + (node + 1) * kVocabulary);
    ASSERT_EQ(std::memcmp(row.data(), expected.data() + expected.size() - row.size(), row.size() * 4), 0) << node;
    path = slots;
  }
  const std::vector<SlotCopy> copies = run.copies_of(path);
  const int length = prompt + static_cast<int>(path.size());
  const auto expected = run.chain(chains, length, {7, 8, 9});  // behind the last node's chain
  for (Executable* executable : {static_cast<Executable*>(&quick), static_cast<Executable*>(&slow)}) {
    executable->copy_slots(copies);
    const auto after = run.chain(*executable, length, {7, 8, 9});
    EXPECT_LT(relative_distance(after, expected), executable == &quick ? 1e-30 : kv == DType::kF32 ? 1e-4 : 3e-2);
  }
}

TEST(CpuExecutable, RowsOfATreeAreChains) {
  const Graph graph = TestModel().build();  // a layer with a window of 100 and a softcap among them
  for (const Isa isa : supported_isas()) {
    SCOPED_TRACE(isa_name(isa));
    for (const auto& [prompt, nodes] :
         {std::pair{1, 2}, {40, 9}, {60, 20}, {63, 64}, {64, 31}, {127, 5}, {250, 40}, {256, 12}, {300, 64}}) {
      compare_tree_with_chains(graph, DType::kBF16, prompt, nodes, isa);
    }
    compare_tree_with_chains(graph, DType::kF32, 100, 50, isa);
    compare_tree_with_chains(graph, DType::kI8, 90, 50, isa);
    compare_tree_with_chains(graph, DType::kF8E4M3, 110, 30, isa);
  }
}

TEST(CpuExecutable, AllocatesNothing) {
  for (const DType weight : {DType::kBF16, DType::kI4}) {
    TestModel model;
    model.weight = weight;
    const Graph graph = packed(model.build(), CpuBackend());
    StepMaker steps(2, 700, model.vocabulary, 3);
    CpuExecutable executable(graph, options_for(steps, DType::kBF16, 2), supported_isas().back());
    std::vector<float> logits(300 * static_cast<size_t>(model.vocabulary));
    executable.set_profiling(true);
    for (const auto& feeds :
         std::vector<std::vector<Feed>>{{{0, 280}}, {{0, 1}}, {{0, 1}, {1, 40}}, {{0, 280}}, {{0, 1}, {1, 1}}}) {
      const StepInput& input = steps.next(feeds);
      const int64_t before = allocation_count();
      EXPECT_EQ(executable.run(input, logits), StepOutcome::kDone);
      EXPECT_EQ(allocation_count(), before);
    }
    EXPECT_EQ(executable.take_profile().size(), graph.nodes().size());
    const MemoryUse use = executable.memory();
    EXPECT_GT(use.weights, 0u);
    EXPECT_GT(use.kv_cache, 0u);
    EXPECT_GT(use.activations, 0u);
  }
}

// All outputs that are wanted, in both backends, and the same bits whichever are.
TEST(CpuExecutable, WritesTheOutputsThatAreWanted) {
  const TestModel model;
  Graph graph = model.build();
  graph.mark_output(graph.find_value("layer0.out"));
  graph.mark_output(graph.find_value("layer1.out"));
  const Graph fast = packed(graph, CpuBackend());
  StepMaker steps(2, 200, model.vocabulary, 3);
  const LoadOptions options = options_for(steps, DType::kF32, 2);
  reference::ReferenceExecutable slow(graph, options);
  CpuExecutable quick(fast, options, supported_isas().back());
  const StepInput& input = steps.next({{0, 70}, {1, 9}});
  const auto run = [&](Executable& executable, std::array<bool, 3> wanted) {
    std::array<std::vector<float>, 3> results;
    const int64_t columns[] = {model.vocabulary, model.hidden, model.hidden};
    std::vector<std::span<float>> outputs;
    for (size_t i = 0; i < 3; ++i) {
      if (wanted[i]) results[i].resize(79 * static_cast<size_t>(columns[i]));
      outputs.emplace_back(results[i]);
    }
    EXPECT_EQ(executable.run(input, StepOutputs(outputs)), StepOutcome::kDone);
    return results;
  };
  const auto expected = run(slow, {true, true, true});
  const auto all = run(quick, {true, true, true});
  for (size_t i = 0; i < 3; ++i) EXPECT_LT(relative_distance(all[i], expected[i]), 1e-4) << i;
  EXPECT_EQ(run(quick, {true, false, false})[0], all[0]);
  EXPECT_EQ(run(quick, {false, false, true})[2], all[2]);
  EXPECT_EQ(run(slow, {false, true, false})[1], expected[1]);
  std::vector<float> logits(79 * static_cast<size_t>(model.vocabulary));
  EXPECT_EQ(quick.run(input, logits), StepOutcome::kDone);
  EXPECT_EQ(logits, all[0]);
  std::vector<float> short_buffer(79);
  const std::span<float> too_short[] = {logits, short_buffer};
  EXPECT_EQ(quick.run(input, StepOutputs(too_short)), StepOutcome::kTooLarge);
}

TEST(CpuExecutable, RefusesStepsTooLarge) {
  TestModel model;
  const Graph graph = packed(model.build(), CpuBackend());
  StepMaker steps(1, 700, model.vocabulary, 3);
  CpuExecutable executable(graph, options_for(steps, DType::kF32, 1), supported_isas().back());
  std::vector<float> logits(10);
  EXPECT_EQ(executable.run(steps.next({{0, 301}}), logits), StepOutcome::kTooLarge);
  EXPECT_EQ(executable.run(steps.next({{0, 1}}), logits), StepOutcome::kTooLarge);
}

TEST(CpuBackend, TimesKernels) {
  TestModel model;
  const Graph graph = packed(model.build(), CpuBackend());
  const CpuBackend backend;
  for (const Node& node : graph.nodes()) {
    EXPECT_FALSE(backend.why_unsupported(graph, node).has_value());
    if (node.op != Op::kLinear) continue;
    for (const std::string& kernel : backend.kernels(graph, node))
      EXPECT_GT(backend.time_kernel(graph, node, kernel, 4), 0);
  }
}

TEST(CpuBackend, ForcedInstructionSet) {
  setenv("EDGEWISE_FORCE_ISA", "baseline", 1);
  EXPECT_EQ(choose_isa(), Isa::kBaseline);
  setenv("EDGEWISE_FORCE_ISA", "mmx", 1);
  EXPECT_THROW(choose_isa(), Error);
  unsetenv("EDGEWISE_FORCE_ISA");
  EXPECT_EQ(choose_isa(), supported_isas().back());
}

}  // namespace
}  // namespace edgewise::cpu
