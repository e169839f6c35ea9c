// Drafts from the text itself (prompt lookup, https://github.com/apoorvumang/prompt-lookup-decoding): what followed the
// last few tokens where they stood before is likely to follow again. Costs no model; pays where answers repeat their
// prompt.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace edgewise {

inline constexpr int kMostDraftTokens = 64;
inline constexpr int kLongestNgram = 4;
inline constexpr int kShortestNgram = 2;

// Up to `most` tokens that followed the latest earlier occurrence of the longest known suffix of `tokens`, appended to
// `draft`, which has the capacity.
inline void look_up_draft(std::span<const int32_t> tokens, int most, std::vector<int32_t>& draft) noexcept {
  const auto length = static_cast<int>(tokens.size());
  for (int n = kLongestNgram; n >= kShortestNgram; --n) {
    for (int end = length - 1; end >= n; --end) {  // the occurrence ends before `end`
      bool same = true;
      for (int i = 1; i <= n && same; ++i)
        same = tokens[static_cast<size_t>(end - i)] == tokens[static_cast<size_t>(length - i)];
      if (!same) continue;
      for (int i = end; i < length && static_cast<int>(draft.size()) < most; ++i)
        draft.push_back(tokens[static_cast<size_t>(i)]);
      return;
    }
  }
}

// Whether drafting pays for one sequence: stops after enough drafts of which too few were right.
class DraftGauge {
 public:
  void note(int drafted, int accepted) {
    drafted_ = 0.9 * drafted_ + drafted;
    accepted_ = 0.9 * accepted_ + accepted;
  }
  bool pays() const { return drafted_ < kTrial || accepted_ > kLeastShare * drafted_; }

 private:
  static constexpr double kTrial = 24;         // drafted tokens before the first verdict
  static constexpr double kLeastShare = 0.15;  // of them that must be right
  double drafted_ = 0;
  double accepted_ = 0;
};

}  // namespace edgewise
