// Whole models on the GPU against the reference backend.
#include "backends/cuda/executable_test.h"

#include <cmath>

#include "backends/cuda/kernels.h"
#include "backends/reference/executable.h"
#include "base/error.h"
#include "base/relative_distance.h"

namespace edgewise::cuda {
namespace {

// Plain decoders, in steps that mix one to four tokens with longer ones; the program runs the former.
void compare_decoder(TestModel model, DType kv, double tolerance, const Script& script) {
  SCOPED_TRACE(std::string(dtype_name(model.weight)) + " " + std::string(dtype_name(kv)));
  const Graph graph = model.build_decoder(3);
  const Graph fast = packed(graph, CudaBackend());
  StepMaker steps(3, 700, model.vocabulary, 5);
  const LoadOptions options = options_for(steps, kv);
  reference::ReferenceExecutable slow(graph, options);
  slow.round_activations(model.weight == DType::kBF16 ? DType::kBF16 : DType::kF16, kMostBatchTokens);
  slow.round_queries(kMostBatchTokens);
  CudaExecutable quick(fast, options);
  ASSERT_TRUE(quick.has_program());
  for (size_t i = 0; i < script.size(); ++i) {
    const StepInput& input = steps.next(script[i]);
    std::vector<float> expected(input.logits_rows.size() * static_cast<size_t>(model.vocabulary));
    std::vector<float> found(expected.size());
    ASSERT_EQ(slow.run(input, expected), StepOutcome::kDone);
    ASSERT_EQ(quick.run(input, found), StepOutcome::kDone);
    ASSERT_LT(relative_distance(found, expected), tolerance) << "step " << i << " of " << input.tokens.size();
  }
}

// Steps of up to 64 tokens, where activations keep their bits.
Script short_steps() {
  Script script = {{{0, 1}}, {{0, 57}, {1, 7}}, {{0, 64}}, {{0, 1}}, {{0, 2}, {1, 1}, {2, 1}}, {{1, 4}}};
  script.insert(script.end(), 5, {{0, 58}});
  const Script rest = {{{0, 1}, {1, 1}}, {{0, 61}}, {{0, 63}}, {{0, 3}}, {{0, 1}},
                       {{1, 1}, {0, 2}}, {{2, 60}}, {{2, 3}},  {{2, 2}}};
  script.insert(script.end(), rest.begin(), rest.end());
  return script;
}

// And prompts beyond.
Script long_steps() {
  return {{{0, 1}},   {{0, 130}, {1, 7}}, {{0, 1}}, {{0, 2}, {1, 1}, {2, 1}}, {{1, 4}},  {{0, 290}}, {{0, 1}, {1, 1}},
          {{0, 130}}, {{0, 3}},           {{0, 1}}, {{1, 1}, {0, 2}},         {{2, 60}}, {{2, 3}},   {{2, 2}}};
}

void compare_formats(const Script& script) {
  TestModel model;
  model.weight = DType::kBF16;
  for (const int64_t head_dim : {24, 64, 128}) {
    model.head_dim = head_dim;
    compare_decoder(model, DType::kBF16, 1e-2, script);
  }
  model.head_dim = 48;
  model.hidden = 392;  // not of whole chunks, nor of blocks
  model.inner = 1048;
  model.vocabulary = 3001;
  for (const DType kv : {DType::kF16, DType::kBF16, DType::kI8, DType::kF8E4M3})
    compare_decoder(model, kv, 3e-2, script);
  model.weight = DType::kF16;
  compare_decoder(model, DType::kF16, 4e-3, script);
  for (const DType weight : {DType::kF8E4M3, DType::kI8, DType::kI4, DType::kU4}) {
    for (const int64_t block : {32, 64, 128, 10000}) {
      model.weight = weight;
      model.block = block;
      model.zeros = weight == DType::kU4;
      compare_decoder(model, DType::kF16, model.zeros ? 2e-2 : 4e-3, script);
    }
  }
  model.weight = DType::kF4E2M1;
  model.zeros = false;
  model.scale = DType::kF8E4M3;
  model.block = 16;
  compare_decoder(model, DType::kF16, 4e-3, script);
}

TEST_F(CudaExecutableTest, ProgramMatchesReference) { compare_formats(short_steps()); }
TEST_F(CudaExecutableTest, ProgramFollowsLongPrompts) { compare_formats(long_steps()); }

// Histories of more pages than there are blocks to share them.
TEST_F(CudaExecutableTest, ProgramWalksSeveralPages) {
  TestModel model;
  model.weight = DType::kBF16;
  model.heads = model.kv_heads = 32;
  model.head_dim = 64;
  const Script script = {{{0, 290}}, {{0, 290}, {1, 5}}, {{0, 1}},         {{0, 3}},
                         {{0, 55}},  {{0, 2}, {1, 1}},   {{1, 1}, {0, 3}}, {{0, 1}, {1, 1}, {2, 1}},
                         {{1, 200}}, {{1, 2}, {0, 2}}};
  for (const DType kv : {DType::kBF16, DType::kF16, DType::kI8, DType::kF8E4M3})
    compare_decoder(model, kv, 3e-2, script);
}

// Down projections whose input no multiprocessor holds whole.
void compare_wide(const Script& script, DType kv) {
  TestModel model;
  model.weight = DType::kBF16;
  model.hidden = 256;
  model.head_dim = 64;
  model.inner = 13000;
  compare_decoder(model, kv, 1e-2, script);
}

TEST_F(CudaExecutableTest, ProgramSlicesWideMatrices) { compare_wide(short_steps(), DType::kBF16); }
// With a cache of f16 a prompt's probabilities are halves: rounded to bf16 they make activations round to their
// neighbours, which is not what this is about.
TEST_F(CudaExecutableTest, ProgramSlicesBehindLongPrompts) { compare_wide(long_steps(), DType::kF16); }

// Every node observed, then every step again as it runs in earnest. The longest step has `prompt` + 10 tokens.
void compare_with_reference(const TestModel& model, DType kv, double tolerance, int prompt = 130) {
  SCOPED_TRACE(std::string(dtype_name(model.weight)) + " " + std::string(dtype_name(kv)));
  const Graph graph = model.build();
  const Graph fast = packed(graph, CudaBackend());
  StepMaker steps(3, 700, model.vocabulary, 5);
  const LoadOptions options = options_for(steps, kv);
  reference::ReferenceExecutable slow(graph, options);
  if (kv != DType::kF32 && model.head_dim % 8 == 0) slow.round_queries(kMostBatchTokens);
  CudaExecutable quick(fast, options);
  const std::vector<std::vector<Feed>> script = {{{0, prompt}, {1, 7}}, {{2, 1}},         {{1, 5}, {0, 1}, {2, 3}},
                                                 {{0, prompt + 10}},    {{0, 1}, {1, 1}}, {{1, 40}, {0, 17}, {2, 6}}};
  for (const auto& feeds : script) {
    const StepInput& input = steps.next(feeds);
    const NodeOutputs expected = observed(slow, input, model.vocabulary);
    const NodeOutputs found = observed(quick, input, model.vocabulary);
    ASSERT_EQ(first_difference(graph, found, expected, tolerance), "");
    // Operators run together round otherwise.
    std::vector<float> logits(input.logits_rows.size() * static_cast<size_t>(model.vocabulary));
    ASSERT_EQ(quick.run(input, logits), StepOutcome::kDone);
    ASSERT_LT(relative_distance(logits, expected.at(graph.nodes().back().name)[0]), tolerance);
  }
}

TEST_F(CudaExecutableTest, MatchesReferenceFloat) {
  TestModel model;
  compare_with_reference(model, DType::kF32, 1e-4);
  model.weight = DType::kBF16;
  model.transposed = false;
  compare_with_reference(model, DType::kF32, 2e-4, 50);  // activations have 16 bits
  model.experts = 2;                                     // all of them chosen, else other ones might be
  compare_with_reference(model, DType::kF32, 1e-2);      // and 8 bits in steps of more than 64 tokens
  compare_with_reference(model, DType::kBF16, 1e-2);     // a key may round to its neighbour in the cache
  model.weight = DType::kF16;
  compare_with_reference(model, DType::kF16, 4e-3);  // and here 11
}

// Heads of 20 columns take the plain kernel for attention, the others the tensor cores'.
TEST_F(CudaExecutableTest, MatchesReferenceCaches) {
  for (const int64_t head_dim : {20, 24, 64, 80, 128, 256}) {
    TestModel model;
    model.head_dim = head_dim;
    SCOPED_TRACE(head_dim);
    // With long prompts all experts are chosen, else a rounded probability might choose another one.
    for (const auto& [experts, prompt] : {std::pair{5, 50}, {2, 130}}) {
      model.experts = experts;
      compare_with_reference(model, DType::kF16, 2e-3, prompt);
      compare_with_reference(model, DType::kBF16, 1e-2, prompt);
      compare_with_reference(model, DType::kI8, 1e-2, prompt);
      compare_with_reference(model, DType::kF8E4M3, 3e-2, prompt);
    }
  }
}

TEST_F(CudaExecutableTest, MatchesReferenceScaledFloat) {
  TestModel model;
  model.experts = 2;
  model.weight = DType::kF8E4M3;
  for (const int64_t block : {16, 64, 1000}) {
    model.block = block;
    compare_with_reference(model, DType::kF32, 4e-3);
  }
  model.weight = DType::kF4E2M1;
  model.scale = DType::kF8E4M3;
  model.block = 16;
  compare_with_reference(model, DType::kF32, 4e-3);
}

TEST_F(CudaExecutableTest, MatchesReferenceInteger) {
  TestModel model;
  model.experts = 2;
  for (const DType weight : {DType::kI8, DType::kI4, DType::kU4, DType::kU8}) {
    for (const int64_t block : {24, 32, 64, 128}) {
      model.weight = weight;
      model.block = block;
      model.zeros = weight == DType::kU4;
      model.transposed = weight != DType::kI4;
      // Without a middle the products of unsigned weights cancel less well.
      compare_with_reference(model, DType::kF32, model.zeros ? 2e-2 : 4e-3);
    }
  }
}

TEST_F(CudaExecutableTest, MatchesReferenceTokenScales) {
  TestModel model;
  model.weight = DType::kI8;
  model.token_scales = true;
  model.block = 1000;
  model.experts = 2;
  compare_with_reference(model, DType::kF32, 0.03);  // an activation may round to its neighbour
}

void compare_tree(DType kv, int prompt, int nodes, int64_t head_dim = 20) {
  SCOPED_TRACE(std::string(dtype_name(kv)) + " " + std::to_string(prompt) + " + " + std::to_string(nodes));
  TestModel model;
  model.head_dim = head_dim;
  if (kv != DType::kF32 && head_dim % 8 == 0 && prompt > kMostBatchTokens) model.experts = 2;  // as above
  const Graph plain = model.build();  // a layer with a window of 100 and a softcap among them
  const Graph graph = packed(plain, CudaBackend());
  LoadOptions options;
  options.max_tokens = options.max_rows = 400;
  options.kv_pages = 8;
  options.kv_dtype = kv;
  TreeRun run(prompt, nodes, static_cast<uint32_t>(prompt * 64 + nodes));
  CudaExecutable quick(graph, options);
  reference::ReferenceExecutable slow(plain, options);
  run.chain(quick, 0, run.tokens);
  run.chain(slow, 0, run.tokens);
  const double tolerance = kv == DType::kF32 ? 1e-4 : 3e-2;
  EXPECT_LT(relative_distance(run.tree(quick, 0, nodes), run.tree(slow, 0, nodes)), tolerance);
  const auto path = run.ancestors(static_cast<size_t>(nodes - 1));
  const auto copies = run.copies_of(path);
  quick.copy_slots(copies);
  slow.copy_slots(copies);
  const int length = prompt + static_cast<int>(path.size());
  EXPECT_LT(relative_distance(run.chain(quick, length, {7, 8, 9}), run.chain(slow, length, {7, 8, 9})), tolerance);
}

TEST_F(CudaExecutableTest, MatchesReferenceTrees) {
  for (const auto& [prompt, nodes] : {std::pair{1, 2}, {63, 64}, {64, 31}, {250, 40}, {300, 64}})
    compare_tree(DType::kF32, prompt, nodes);
  for (const DType kv : {DType::kF16, DType::kBF16, DType::kI8, DType::kF8E4M3}) {
    compare_tree(kv, 110, 30);
    compare_tree(kv, 60, 40, 64);
    compare_tree(kv, 250, 40, 64);
  }
}

TEST_F(CudaExecutableTest, PagesTravelExactly) {
  const TestModel model;
  const Graph graph = packed(model.build(), CudaBackend());
  for (const DType kv : {DType::kBF16, DType::kI8}) {
    StepMaker steps(1, 200, model.vocabulary, 3);
    const LoadOptions options = options_for(steps, kv);
    CudaExecutable from(graph, options);
    CudaExecutable to(graph, options);
    std::vector<float> logits(100 * static_cast<size_t>(model.vocabulary));
    ASSERT_EQ(from.run(steps.next({{0, 100}}), logits), StepOutcome::kDone);
    std::vector<std::byte> page(from.page_bytes());
    for (int i = 0; i < steps.pages(); ++i) {
      from.read_page(i, page);
      to.write_page(i, page);
    }
    const StepInput& input = steps.next({{0, 5}});
    std::vector<float> expected(5 * static_cast<size_t>(model.vocabulary));
    std::vector<float> found(expected.size());
    ASSERT_EQ(from.run(input, expected), StepOutcome::kDone);
    ASSERT_EQ(to.run(input, found), StepOutcome::kDone);
    EXPECT_EQ(found, expected);
  }
}

TEST_F(CudaExecutableTest, RefusesStepsTooLarge) {
  const TestModel model;
  const Graph graph = packed(model.build(), CudaBackend());
  StepMaker steps(1, 700, model.vocabulary, 3);
  CudaExecutable executable(graph, options_for(steps, DType::kF32));
  std::vector<float> logits(10);
  EXPECT_EQ(executable.run(steps.next({{0, 301}}), logits), StepOutcome::kTooLarge);
  EXPECT_EQ(executable.run(steps.next({{0, 1}}), logits), StepOutcome::kTooLarge);
}

// Memory that the GPU does not have is refused with the numbers, and the next engine loads.
TEST_F(CudaExecutableTest, RefusesCachesTooLarge) {
  const TestModel model;
  const Graph graph = packed(model.build(), CudaBackend());
  StepMaker steps(1, 100, model.vocabulary, 3);
  LoadOptions options = options_for(steps, DType::kF32);
  options.kv_pages = 100'000'000;
  options.max_sequences = 1;
  try {
    CudaExecutable executable(graph, options);
    ADD_FAILURE() << "half a petabyte was found";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("KV cache"), std::string::npos) << error.what();
  }
  CudaExecutable executable(graph, options_for(steps, DType::kF32));
}

}  // namespace
}  // namespace edgewise::cuda
