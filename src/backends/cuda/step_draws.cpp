// What kernels have to know of the tokens that rows ask for.
#include <algorithm>

#include "backends/cuda/step_tables.h"

namespace edgewise::cuda {

void StepTables::fill_draws(const StepInput& input, std::span<int32_t> chosen) noexcept {
  change_count_ = 0;
  any_drawn_ = false;
  masked_.clear();
  for (size_t row = 0; row < input.logits_rows.size(); ++row) {
    DrawRow& to = host<DrawRow>(draws_)[row];
    to = {};
    if (row >= chosen.size() || chosen[row] != kDraw) continue;
    const auto& [rule, uniform, changes, allowed] = input.draws[row];
    const bool masked = !allowed.empty();
    if (change_count_ + changes.size() > most_changes() ||
        (masked && (masked_.size() == most_sequences_ || allowed.size() > words_))) {
      chosen[row] = kKeepLogits;
      continue;
    }
    to.change_count = static_cast<int32_t>(changes.size());
    to.first_change = static_cast<int32_t>(change_count_);
    std::ranges::copy(changes, host<LogitChange>(changes_) + change_count_);
    change_count_ += changes.size();
    if (masked) {
      to.first_word = static_cast<int32_t>(masked_.size() * words_);
      to.words = static_cast<int32_t>(allowed.size());
      to.later = true;
      masked_.push_back(row);
    }
    if (rule.temperature == 0) continue;
    any_drawn_ = true;
    to.inverse = rule.inverse();
    to.floor = rule.floor();
    to.most = rule.most(vocabulary_);
    to.top_p = rule.top_p;
    to.uniform = uniform;
  }
}

void StepTables::send_masked(const StepInput& input, StepContext& context) noexcept {
  const size_t rows = input.logits_rows.size();
  DrawRow* const draws = host<DrawRow>(masked_draws_);
  std::fill_n(draws, rows, DrawRow{.later = true});
  auto* range = host<FetchRange>(masked_ranges_);
  const auto add = [&](size_t begin, size_t bytes) {
    *range++ = {static_cast<uint32_t>(begin / 16), static_cast<uint32_t>((begin + bytes + 15) / 16)};
  };
  add(masked_draws_, rows * sizeof(DrawRow));
  for (const size_t row : masked_) {
    draws[row] = host<DrawRow>(draws_)[row];
    draws[row].later = false;
    const size_t place = allowed_ + static_cast<size_t>(draws[row].first_word) * sizeof(uint64_t);
    std::ranges::copy(input.draws[row].allowed, host<uint64_t>(place));
    add(place, input.draws[row].allowed.size_bytes());
  }
  cuda::fetch(context.stream, host_.data(), host<const FetchRange>(masked_ranges_),
              static_cast<int>(masked_.size()) + 1, device_.data());
  context.draws = device_.as<const DrawRow>(masked_draws_);
}

}  // namespace edgewise::cuda
