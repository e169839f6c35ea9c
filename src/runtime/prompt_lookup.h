// Drafts from the text itself (prompt lookup, https://github.com/apoorvumang/prompt-lookup-decoding): what followed the
// last few tokens where they stood before is likely to follow again. Costs no model; pays where answers repeat their
// prompt.
#pragma once

#include "runtime/sequence.h"

namespace edgewise {

inline constexpr int kLongestNgram = 4;
inline constexpr int kShortestNgram = 2;

// Up to `most` tokens that followed the latest earlier occurrence of the longest known suffix of `tokens`, as a chain
// appended to `draft`, which has the capacity.
inline void look_up_draft(std::span<const int32_t> tokens, int most, DraftTree& draft) noexcept {
  const auto length = static_cast<int>(tokens.size());
  for (int n = kLongestNgram; n >= kShortestNgram; --n) {
    for (int end = length - 1; end >= n; --end) {  // the occurrence ends before `end`
      bool same = true;
      for (int i = 1; i <= n && same; ++i)
        same = tokens[static_cast<size_t>(end - i)] == tokens[static_cast<size_t>(length - i)];
      if (!same) continue;
      for (int i = end; i < length && draft.size() < most; ++i)
        draft.add(tokens[static_cast<size_t>(i)], draft.size() - 1);
      return;
    }
  }
}

class PromptLookup final : public Drafter {
 public:
  explicit PromptLookup(int tokens) : tokens_(tokens) {}
  int tokens(int depth) const override { return depth; }
  int max_depth() const override { return tokens_; }
  void draft(std::span<const DraftRequest> requests, KvCache&) noexcept override {
    for (const DraftRequest& request : requests)
      look_up_draft(request.sequence->tokens, request.depth, request.sequence->draft);
  }

 private:
  int tokens_;
};

}  // namespace edgewise
