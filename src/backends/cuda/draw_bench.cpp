// Times a step's tokens from its logits, Qwen 2.5's 152,064 of them a row: few likely ones among many, and a vocabulary
// whose tokens are all alike.
//   build/cuda_draw_bench
#include <cstdio>
#include <random>
#include <vector>

#include "backends/cuda/bench_support.h"
#include "backends/cuda/device.h"
#include "backends/cuda/kernels.h"
#include "backends/draw.h"

namespace {

using namespace edgewise;
using namespace edgewise::cuda;

constexpr int kVocabulary = 152064;
constexpr int kMostRows = 64;
constexpr int kLaunches = 20;

struct Case {
  const char* name;
  bool drawn;
  DrawRule rule;
  int changes = 0;
  bool masked = false;
};
constexpr Case kCases[] = {{"greedy", false, {}},
                           {"greedy, 1000 tokens seen", false, {}, 1000},
                           {"greedy, of every other token", false, {}, 0, true},
                           {"temperature 0.8", true, {0.8, 1, 0, 0}},
                           {"temperature 0.8, top_p 0.95", true, {0.8, 0.95, 0, 0}},
                           {"temperature 0.8, top_k 50", true, {0.8, 1, 50, 0}},
                           {"temperature 0.7, top_p 0.8, top_k 20", true, {0.7, 0.8, 20, 0}},
                           {"temperature 0.8, min_p 0.05", true, {0.8, 1, 0, 0.05}}};

std::vector<float> make_logits(bool peaked) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> logits(kVocabulary);
  for (float& logit : logits) logit = normal(random) * (peaked ? 3.0f : 0.5f);
  for (int i = 0; i < 40 && peaked; ++i) logits[random() % kVocabulary] = 10 + 2 * normal(random);
  return logits;
}

DeviceMemory repeated(const std::vector<float>& row) {
  std::vector<float> rows;
  for (int i = 0; i < kMostRows; ++i) rows.insert(rows.end(), row.begin(), row.end());
  return upload(std::as_bytes(std::span(rows)), "logits");
}

class Bench {
 public:
  // Median microseconds, without those of the copy that each launch starts from.
  double time_rows(const Case& wanted, const DeviceMemory& logits, int rows) {
    std::vector<DrawRow> rules(static_cast<size_t>(rows));
    const DrawRule& rule = wanted.rule;
    for (size_t i = 0; i < rules.size(); ++i) {
      if (wanted.drawn)
        rules[i] = {.inverse = rule.inverse(),
                    .floor = rule.floor(),
                    .most = rule.most(kVocabulary),
                    .top_p = rule.top_p,
                    .uniform = (static_cast<double>(i) + 0.5) / rows};
      rules[i].change_count = wanted.changes;
      rules[i].words = wanted.masked ? kVocabulary / 64 : 0;
    }
    const DeviceMemory draws = upload(std::as_bytes(std::span(rules)), "draws");
    const auto time = [&](bool chosen) {
      return time_launches(stream_.get(), kLaunches, [&](int) {
        check(cudaMemcpyAsync(work_.data(), logits.data(), static_cast<size_t>(rows) * kVocabulary * sizeof(float),
                              cudaMemcpyDeviceToDevice, stream_.get()));
        if (chosen) choose(rows, draws.as<const DrawRow>());
      });
    };
    return time(true) - time(false);
  }

 private:
  void choose(int rows, const DrawRow* draws) {
    auto* const choices = choices_.as<RowChoice>();
    best_rows(stream_.get(), work_.as<float>(), rows, kVocabulary, draws, changes_.as<const LogitChange>(),
              mask_.as<const uint64_t>(), choices, tokens_.as<int32_t>());
    draw_rows(stream_.get(), work_.as<float>(), rows, kVocabulary, device_info().multiprocessors, draws, choices,
              scratch_.data(), tokens_.as<int32_t>());
  }

  static DeviceMemory make_changes() {
    std::vector<LogitChange> changes;
    for (int i = 0; i < kMostChanges; ++i) changes.push_back({i * (kVocabulary / kMostChanges), 1.1f});
    return upload(std::as_bytes(std::span(changes)), "changes");
  }

  static constexpr int kMostChanges = 1000;
  Stream stream_;
  DeviceMemory changes_ = make_changes();
  DeviceMemory mask_ = upload(std::vector<std::byte>(kVocabulary / 8, std::byte{0x55}), "a mask");
  DeviceMemory work_{size_t{kMostRows} * kVocabulary * sizeof(float), "logits"};
  DeviceMemory choices_ = upload(std::vector<std::byte>(kMostRows * sizeof(RowChoice)), "choices");
  DeviceMemory scratch_ = upload(std::vector<std::byte>(kMostRows * draw_bytes(kVocabulary)), "scratch");
  PinnedMemory tokens_{kMostRows * sizeof(int32_t), "tokens"};
};

}  // namespace

int main() {
  constexpr int kRows[] = {1, 8, 32, 64};
  const DeviceMemory logits[] = {repeated(make_logits(true)), repeated(make_logits(false))};
  Bench bench;
  std::printf("%-38s%32s%32s\n%-38s", "us", "peaked", "alike", "rows");
  for (int i = 0; i < 8; ++i) std::printf("%8d", kRows[i % 4]);
  std::printf("\n");
  for (const Case& wanted : kCases) {
    std::printf("%-38s", wanted.name);
    for (const DeviceMemory& memory : logits)
      for (const int rows : kRows) std::printf("%8.1f", bench.time_rows(wanted, memory, rows));
    std::printf("\n");
  }
  check(cudaGetLastError());
  return 0;
}
