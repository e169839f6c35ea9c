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
    const DeviceMemory draws = upload(std::vector<std::byte>(rows * sizeof(DrawRow)), "draws");
    const DeviceMemory choices = upload(std::vector<std::byte>(rows * sizeof(RowChoice)), "choices");
    const PinnedMemory tokens(rows * sizeof(int32_t), "tokens");
    for (int round = 0; round < 2; ++round) {  // the second one finds zeros again
      best_rows(stream.get(), there.as<float>(), static_cast<int>(rows), static_cast<int>(columns),
                draws.as<const DrawRow>(), nullptr, nullptr, choices.as<RowChoice>(), tokens.as<int32_t>());
      check_cuda(cudaStreamSynchronize(stream.get()), "choose tokens");
      for (size_t row = 0; row < rows; ++row)
        ASSERT_EQ(tokens.as<int32_t>()[row], argmax(std::span(logits).subspan(row * columns, columns))) << row;
    }
  }
}

// Rules that leave all tokens, some, one; and numbers from both ends of [0, 1).
std::vector<RowDraw> difficult_draws() {
  std::vector<RowDraw> draws;
  for (const DrawRule& rule : std::vector<DrawRule>{{1, 1, 0, 0},
                                                    {0.3, 1, 0, 0},
                                                    {100, 1, 0, 0},
                                                    {1e-3, 1, 0, 0.5},
                                                    {1, 1, 1, 0},
                                                    {1, 1, 50, 0},
                                                    {2, 1, 3000, 0},
                                                    {5, 1, 100000, 0.01},
                                                    {1, 0.9, 0, 0},
                                                    {0.7, 0.3, 0, 0},
                                                    {1.5, 0.999, 0, 0},
                                                    {1, 0.8, 40, 0},
                                                    {1, 0.5, 20000, 0},
                                                    {1, 1, 0, 0.05},
                                                    {0.8, 0.95, 20, 0.1},
                                                    {100, 0.5, 0, 0}}) {
    for (const double uniform : {0.0, 0.1, 0.5, 0.77, 0.999, 0x1.fffffffffffffp-1}) draws.push_back({rule, uniform});
  }
  return draws;
}

// Logits of a row: spread as a model's, almost equal, few values many times, few likely ones, and no numbers.
std::vector<std::vector<float>> difficult_logits(size_t columns) {
  std::mt19937 random(static_cast<uint32_t>(columns));
  std::normal_distribution<float> normal;
  std::vector<std::vector<float>> rows;
  const auto add = [&](auto logit) {
    rows.emplace_back(columns);
    for (float& to : rows.back()) to = logit();
  };
  for (const float spread : {0.1f, 3.0f, 20.0f}) add([&] { return normal(random) * spread; });
  add([&] { return static_cast<float>(random() % 3); });
  add([] { return 2.0f; });
  add([&] { return random() % 1000 == 0 ? 10 + normal(random) : normal(random); });
  add([&] { return random() % 7 == 0 ? -INFINITY : normal(random) * 2; });
  add([&] { return random() % 7 == 0 ? NAN : normal(random); });
  add([&] { return random() % 100 == 0 ? INFINITY : normal(random); });
  add([] { return NAN; });
  add([] { return -INFINITY; });
  return rows;
}

// Every third token on average, each in its own way.
std::vector<LogitChange> difficult_changes(size_t columns) {
  std::mt19937 random(static_cast<uint32_t>(columns));
  std::vector<LogitChange> changes;
  for (size_t i = random() % 3; i < columns; i += 1 + random() % 5) {
    changes.push_back({.index = static_cast<int32_t>(i),
                       .repetition_penalty = random() % 2 == 0 ? 1.0f : 1.3f,
                       .add = static_cast<float>(random() % 200) / 50 - 2});
  }
  return changes;
}

// What the host finds.
int32_t token_of(std::vector<float> logits, const RowDraw& wanted) {
  for (const LogitChange& change : wanted.changes) {
    float& logit = logits[static_cast<size_t>(change.index)];
    logit = changed_logit(logit, change);
  }
  for (size_t i = 0; i < std::min(logits.size(), wanted.allowed.size() * 64); ++i) {
    if ((wanted.allowed[i / 64] >> i % 64 & 1) == 0) logits[i] = -INFINITY;
  }
  return wanted.rule.temperature == 0 ? argmax(logits) : Draw(logits.size()).draw(logits, wanted.rule, wanted.uniform);
}

DrawRow as_row(const RowDraw& wanted, size_t columns) {
  DrawRow row{.change_count = static_cast<int32_t>(wanted.changes.size())};
  const DrawRule& rule = wanted.rule;
  if (rule.temperature == 0) return row;
  row.inverse = rule.inverse();
  row.floor = rule.floor();
  row.most = rule.most(columns);
  row.top_p = rule.top_p;
  row.uniform = wanted.uniform;
  return row;
}

TEST_F(StepResultsTest, DrawsAsTheHostDoes) {
  const Stream stream;
  for (const size_t columns : {1u, 2u, 61u, 3000u, 32003u, 151936u}) {
    const std::vector<LogitChange> changes = difficult_changes(columns);
    std::vector<RowDraw> draws = difficult_draws();
    for (size_t i = 0; i < draws.size(); i += 5) draws[i].changes = changes;
    draws.push_back({{.temperature = 0}, 0, changes});
    draws.push_back({{.temperature = 0}});
    std::vector<DrawRow> asked;
    for (const RowDraw& draw : draws) asked.push_back(as_row(draw, columns));
    const size_t rows = draws.size();
    const DeviceMemory changes_there = upload(std::as_bytes(std::span(changes)), "changes");
    const DeviceMemory rules = upload(std::as_bytes(std::span(asked)), "draws");
    const DeviceMemory choices = upload(std::vector<std::byte>(rows * sizeof(RowChoice)), "choices");
    const DeviceMemory scratch =
        upload(std::vector<std::byte>(rows * draw_bytes(static_cast<int>(columns))), "scratch");
    const PinnedMemory tokens(rows * sizeof(int32_t), "tokens");
    for (const std::vector<float>& row_logits : difficult_logits(columns)) {
      std::vector<float> logits;
      for (size_t i = 0; i < rows; ++i) logits.insert(logits.end(), row_logits.begin(), row_logits.end());
      std::vector<int32_t> expected;
      for (const RowDraw& draw : draws) expected.push_back(token_of(row_logits, draw));
      // In one launch, and each row in a launch of its own, which has more blocks for it.
      for (const size_t together : {rows, size_t{1}}) {
        const DeviceMemory there = upload(std::as_bytes(std::span(logits)), "logits");
        for (size_t row = 0; row < rows; row += together) {
          auto* const at = there.as<float>(row * columns * sizeof(float));
          const auto* const rule = rules.as<const DrawRow>() + row;
          const auto count = static_cast<int>(together);
          best_rows(stream.get(), at, count, static_cast<int>(columns), rule, changes_there.as<const LogitChange>(),
                    nullptr, choices.as<RowChoice>(), tokens.as<int32_t>() + row);
          draw_rows(stream.get(), at, count, static_cast<int>(columns), device_info().multiprocessors, rule,
                    choices.as<const RowChoice>(), scratch.data(), tokens.as<int32_t>() + row);
        }
        check_cuda(cudaStreamSynchronize(stream.get()), "draw tokens");
        for (size_t i = 0; i < rows; ++i) {
          const DrawRule& rule = draws[i].rule;
          ASSERT_EQ(tokens.as<int32_t>()[i], expected[i])
              << columns << " tokens, the first one's logit " << row_logits[0] << ", temperature " << rule.temperature
              << ", top_p " << rule.top_p << ", top_k " << rule.top_k << ", min_p " << rule.min_p << ", at "
              << draws[i].uniform << ", changes " << draws[i].changes.size() << ", of " << together;
        }
      }
    }
  }
}

// There when somebody has waited for it.
struct LateMask final : MaskMaker {
  explicit LateMask(size_t words) : words(words) {}
  void wait() noexcept override {
    for (uint64_t& word : words) word = uint64_t{random()} << 32 | random();
  }
  std::mt19937 random{4};
  std::vector<uint64_t> words;
};

TEST_F(StepResultsTest, RowsGiveTokensOrLogits) {
  TestModel model;
  model.vocabulary = 1000;
  const auto columns = static_cast<size_t>(model.vocabulary);
  const Graph graph = packed(model.build(), CudaBackend());
  StepMaker steps(3, 700, model.vocabulary, 5);
  LoadOptions options;
  options.max_tokens = options.max_rows = 300;
  options.max_sequences = 3;
  options.kv_pages = steps.pages();
  CudaExecutable executable(graph, options);
  const std::vector<LogitChange> changes = difficult_changes(columns);
  LateMask masks(columns / 64);  // none of the last tokens
  std::mt19937 random(3);
  for (const auto& feeds : std::vector<std::vector<Feed>>{
           {{0, 130}, {1, 7}}, {{2, 1}}, {{1, 5}, {0, 1}, {2, 3}}, {{2, 1}}, {{0, 1}, {1, 1}}, {{0, 1}, {1, 1}}}) {
    const StepInput& input = steps.next(feeds);
    const size_t rows = input.logits_rows.size();
    std::vector<float> logits(rows * columns);
    ASSERT_EQ(executable.run(input, logits), StepOutcome::kDone);
    for (const uint32_t share : {1u, 2u, 5u}) {  // all rows give their token, or some do
      std::vector<int32_t> chosen(rows);
      std::vector<RowDraw> draws(rows);
      for (size_t row = 0; row < rows; ++row) {
        chosen[row] = random() % share != 0 ? kKeepLogits : random() % 2 == 0 ? kPickBest : kDraw;
        draws[row] = {{random() % 3 == 0 ? 0 : 0.8, 0.95, random() % 2 == 0 ? 5 : 0}, random() * 0x1p-32};
        if (row < 8 && random() % 2 == 0) draws[row].changes = changes;
        if (row < static_cast<size_t>(options.max_sequences)) draws[row].allowed = masks.words;
      }
      const std::vector<int32_t> asked = chosen;
      StepInput with_draws = input;
      with_draws.draws = draws;
      with_draws.masks = &masks;
      std::vector<float> found(logits.size(), 7.0f);
      const std::span<float> output(found);
      ASSERT_EQ(executable.run(with_draws, {&output, 1}, chosen), StepOutcome::kDone);
      for (size_t row = 0; row < rows; ++row) {
        const auto expected = std::span(logits).subspan(row * columns, columns);
        if (asked[row] == kPickBest) {
          ASSERT_EQ(chosen[row], argmax(expected));
        } else if (asked[row] == kDraw) {
          ASSERT_EQ(chosen[row], token_of({expected.begin(), expected.end()}, draws[row]));
        } else {
          ASSERT_EQ(chosen[row], kKeepLogits);
          ASSERT_TRUE(std::ranges::equal(std::span(found).subspan(row * columns, columns), expected));
        }
      }
    }
  }
}

// A row that changes more logits than there is room for is left to who asked.
TEST_F(StepResultsTest, TooManyChangesBringLogits) {
  const TestModel model;
  const Graph graph = packed(model.build(), CudaBackend());
  StepMaker steps(1, 700, model.vocabulary, 5);
  LoadOptions options;
  options.kv_pages = steps.pages();
  CudaExecutable executable(graph, options);
  StepInput input = steps.next({{0, 3}});
  input.logits_rows = input.logits_rows.last(1);
  std::vector<float> logits(static_cast<size_t>(model.vocabulary));
  ASSERT_EQ(executable.run(input, logits), StepOutcome::kDone);
  for (const size_t count : {1u, 100000u}) {
    const std::vector<LogitChange> changes(count, {0, 1, 1});
    const RowDraw draw{{.temperature = 0}, 0, std::span(changes)};
    input.draws = {&draw, 1};
    std::vector<float> found(logits.size());
    const std::span<float> output(found);
    int32_t chosen = kDraw;
    ASSERT_EQ(executable.run(input, {&output, 1}, {&chosen, 1}), StepOutcome::kDone);
    EXPECT_EQ(chosen >= 0, count == 1);
    EXPECT_EQ(found == logits, count != 1);
  }
}

}  // namespace
}  // namespace edgewise::cuda
