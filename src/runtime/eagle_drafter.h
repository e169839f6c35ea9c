// Guesses of an EAGLE-3 draft head (arXiv:2503.01840), one layer that goes on from the model's hidden states.
#pragma once

#include "runtime/model_drafter.h"

namespace edgewise {

// Slot p of the head's cache depends on token p + 1 too, so the last slot of a page shared by two texts may be made for
// the other one's next token. That makes a guess worse now and then, and nothing wrong.
class EagleDrafter final : public ModelDrafter {
 public:
  // `targets` are the tokens that the head's vocabulary stands for.
  EagleDrafter(Executable& head, const DraftingOptions& options, const DraftLimits& limits,
               std::vector<int32_t> targets)
      : ModelDrafter(head, options, limits, limits.max_step_tokens, std::move(targets), 0),
        hidden_(limits.hidden),
        features_(static_cast<size_t>(limits.max_step_tokens) * static_cast<size_t>(limits.hidden)) {}

  std::span<float> features() override { return features_; }

 private:
  void catch_up(std::span<const DraftRequest> requests, KvCache& cache) noexcept override;

  std::ptrdiff_t hidden_;
  std::vector<float> features_;  // of the model's step
};

}  // namespace edgewise
