// Guesses of another engine with the same tokenizer, a smaller one as a rule (arXiv:2211.17192, arXiv:2302.01318).
#pragma once

#include "runtime/model_drafter.h"

namespace edgewise {

inline constexpr int kCatchUpTokens = kPageTokens;

// It needs nothing but tokens, so what it lacks of a sequence (a restored session, pages that a request without guesses
// left) it computes later, a few tokens a step, and guesses from then on. KvCache::followed() says how far it is.
class EngineDrafter final : public ModelDrafter {
 public:
  // `targets`: the tokens that the engine's logits stand for, -1 where the model has none. `vocabulary`: tokens that
  // the engine takes; behind one beyond them a sequence gets no more guesses.
  EngineDrafter(Executable& engine, const DraftingOptions& options, const DraftLimits& limits,
                std::vector<int32_t> targets, int64_t vocabulary)
      : ModelDrafter(engine, options, limits, most_step_tokens(limits), std::move(targets), 1),
        vocabulary_(vocabulary) {}

  // Rows of the engine's largest step.
  static int most_step_tokens(const DraftLimits& limits) {
    return limits.max_step_tokens + limits.max_sequences + kCatchUpTokens;
  }
  void draft(std::span<const DraftRequest> requests, KvCache& cache) noexcept override;

 private:
  void catch_up(std::span<const DraftRequest> requests, KvCache& cache) noexcept override;
  int add_rows(const DraftRequest& request, KvCache& cache, int& spare) noexcept;

  int64_t vocabulary_;
};

}  // namespace edgewise
