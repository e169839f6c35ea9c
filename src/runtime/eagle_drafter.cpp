#include "runtime/eagle_drafter.h"

#include "runtime/sequence.h"

namespace edgewise {

// The rows that the model's step made, with its features: position p stands for token p + 1.
void EagleDrafter::catch_up(std::span<const DraftRequest> requests, KvCache&) noexcept {
  for (const DraftRequest& request : requests) {
    const Sequence& sequence = *request.sequence;
    const auto first = static_cast<int32_t>(tokens_.size());
    for (size_t i = 0; i < request.rows.size(); ++i) {
      const int position = request.first + static_cast<int>(i);
      tokens_.push_back(sequence.tokens[static_cast<size_t>(position) + 1]);
      positions_.push_back(position);
      const auto from = features_.begin() + request.rows[i] * hidden_;
      inputs_.insert(inputs_.end(), from, from + hidden_);
    }
    const auto count = static_cast<int32_t>(request.rows.size());
    slices_.push_back({first, count, request.first, sequence.length(), sequence.pages});
    if (request.depth > 0) start_tree(request);
  }
}

}  // namespace edgewise
