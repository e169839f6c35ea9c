#include "backends/best_rows.h"

#include <algorithm>
#include <array>
#include <limits>

#include "backends/backend.h"

namespace edgewise {

int32_t argmax(std::span<const float> logits) noexcept {
  // By blocks, of which compilers make vectors; a vocabulary is long enough for this to be seen.
  constexpr size_t kBlock = 64;
  std::array<float, kBlock> best;
  best.fill(-std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + kBlock <= logits.size(); i += kBlock) {
    for (size_t j = 0; j < kBlock; ++j) best[j] = logits[i + j] > best[j] ? logits[i + j] : best[j];
  }
  float largest = *std::ranges::max_element(best);
  for (; i < logits.size(); ++i) largest = std::max(largest, logits[i]);
  const auto found = std::ranges::find(logits, largest);
  return found == logits.end() ? 0 : static_cast<int32_t>(found - logits.begin());
}

void pick_best(std::span<const float> logits, int64_t columns, std::span<int32_t> chosen) noexcept {
  const auto width = static_cast<size_t>(columns);
  for (size_t row = 0; row < chosen.size(); ++row) {
    if (chosen[row] == kPickBest) chosen[row] = argmax(logits.subspan(row * width, width));
  }
}

}  // namespace edgewise
