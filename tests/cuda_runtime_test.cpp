// The scheduler over a real model on the GPU: what it takes of memory. Where there is no GPU
// these tests are skipped, and say so.

#include "cuda_runtime_fixture.h"

namespace edgewise {
namespace {

size_t free_memory() {
  size_t free = 0;
  size_t total = 0;
  cuda::check_cuda(cudaMemGetInfo(&free, &total), "be asked for its free memory");
  return free;
}

TEST_F(CudaRuntimeTest, RowsThatChooseNeedNoLogits) { compare_picks(true); }

// Prompts of all lengths, greedy and sampled answers, guesses, and sequences that come and go.
TEST_F(CudaRuntimeTest, StepsTakeNoMemory) {
  const auto l = limits(6, 150);
  const auto executable = find_backend("cuda").load(graph_, {.max_tokens = l.max_step_tokens,
                                                             .max_sequences = l.max_sequences,
                                                             .max_rows = l.max_sequences * 5,
                                                             .kv_pages = l.kv_pages});
  PromptLookup lookup(4);
  Scheduler scheduler(*executable, l, {}, &lookup);
  const int64_t taken = cuda::memory_count();
  const size_t free = free_memory();
  for (int round = 0; round < 3; ++round) {
    std::vector<std::unique_ptr<Sequence>> sequences;
    for (int i = 0; i < 14; ++i) {
      SamplingOptions sampling;
      sampling.temperature = i % 3 == 0 ? 0.8 : 0;
      sampling.seed = 7;
      sequences.push_back(
          std::make_unique<Sequence>(prompt(i + 20 * round, 1 + i * 17 % 230), sampling, 3 + i * 2 % 20, vocabulary_));
      ASSERT_TRUE(scheduler.submit(*sequences.back()));
    }
    finish(scheduler);
  }
  EXPECT_EQ(cuda::memory_count(), taken);
  EXPECT_EQ(free_memory(), free);
}

}  // namespace
}  // namespace edgewise
