// Tokens chosen on the GPU against those chosen from logits on the host. Skipped, and says so, where there is no GPU.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "backends/best_rows.h"
#include "backends/cuda/backend.h"
#include "backends/cuda/executable.h"
#include "backends/test_model.h"

namespace edgewise::cuda {
namespace {

class StepResultsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const char* why = why_no_device()) GTEST_SKIP() << why;
  }
};

// Rows with equals, infinities, zeros of both signs and what is no number.
std::vector<float> difficult_rows(size_t columns) {
  std::mt19937 random(static_cast<uint32_t>(columns));
  std::vector<float> logits;
  for (const float fill : {1.0f, -2.0f, INFINITY, -INFINITY, NAN, -0.0f}) {
    const size_t begin = logits.size();
    logits.insert(logits.end(), 2 * columns, fill);
    for (int i = 0; i < 5; ++i) logits[begin + random() % columns] = 3.0f;
    for (const float odd : {NAN, 0.0f, -INFINITY, 1e-40f}) logits[begin + columns + random() % columns] = odd;
  }
  for (size_t i = 0; i < 2 * columns; ++i) logits.push_back(static_cast<float>(random() % 1000) - 500);
  return logits;
}

TEST_F(StepResultsTest, ChoosesAsTheHostDoes) {
  const Stream stream;
  for (const size_t columns : {1u, 2u, 61u, 2048u, 2049u, 151936u}) {
    SCOPED_TRACE(columns);
    const std::vector<float> logits = difficult_rows(columns);
    const size_t rows = logits.size() / columns;
    const DeviceMemory there = upload(std::as_bytes(std::span(logits)), "logits");
    const DeviceMemory scratch = upload(std::vector<std::byte>(rows * 12), "scratch");
    const PinnedMemory tokens(rows * sizeof(int32_t), "tokens");
    for (int round = 0; round < 2; ++round) {  // the second one finds zeros again
      best_rows(stream.get(), there.as<const float>(), static_cast<int>(rows), static_cast<int>(columns),
                scratch.as<unsigned long long>(), scratch.as<unsigned>(rows * 8), tokens.as<int32_t>());
      check_cuda(cudaStreamSynchronize(stream.get()), "choose tokens");
      for (size_t row = 0; row < rows; ++row)
        ASSERT_EQ(tokens.as<int32_t>()[row], argmax(std::span(logits).subspan(row * columns, columns))) << row;
    }
  }
}

TEST_F(StepResultsTest, RowsGiveTokensOrLogits) {
  const TestModel model;
  const auto columns = static_cast<size_t>(model.vocabulary);
  const Graph graph = packed(model.build(), CudaBackend());
  StepMaker steps(3, 700, model.vocabulary, 5);
  LoadOptions options;
  options.max_tokens = options.max_rows = 300;
  options.max_sequences = 3;
  options.kv_pages = steps.pages();
  CudaExecutable executable(graph, options);
  std::mt19937 random(3);
  for (const auto& feeds : std::vector<std::vector<Feed>>{
           {{0, 130}, {1, 7}}, {{2, 1}}, {{1, 5}, {0, 1}, {2, 3}}, {{2, 1}}, {{0, 1}, {1, 1}}, {{0, 1}, {1, 1}}}) {
    const StepInput& input = steps.next(feeds);
    const size_t rows = input.logits_rows.size();
    std::vector<float> logits(rows * columns);
    ASSERT_EQ(executable.run(input, logits), StepOutcome::kDone);
    for (const uint32_t share : {1u, 2u, 5u}) {  // all rows give their token, or some do
      std::vector<int32_t> best(rows);
      for (int32_t& entry : best) entry = random() % share == 0 ? kPickBest : kKeepLogits;
      const std::vector<int32_t> asked = best;
      std::vector<float> found(logits.size(), 7.0f);
      const std::span<float> output(found);
      ASSERT_EQ(executable.run(input, {&output, 1}, best), StepOutcome::kDone);
      for (size_t row = 0; row < rows; ++row) {
        const auto expected = std::span(logits).subspan(row * columns, columns);
        if (asked[row] == kPickBest) {
          ASSERT_EQ(best[row], argmax(expected));
        } else {
          ASSERT_EQ(best[row], kKeepLogits);
          ASSERT_TRUE(std::ranges::equal(std::span(found).subspan(row * columns, columns), expected));
        }
      }
    }
  }
}

}  // namespace
}  // namespace edgewise::cuda
