#include "runtime/sequence.h"

#include "backends/backend.h"

namespace edgewise {

std::string_view finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "running";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kError:
      return "error";
  }
  return "unknown";
}

FinishReason TokenConstraint::accept(int32_t token) noexcept {
  const bool ends = state.accept(token) && (state.status() == ConstraintState::Status::kFinished || state.must_end());
  if (ends) return FinishReason::kStop;
  return state.status() == ConstraintState::Status::kRunning ? FinishReason::kNone : FinishReason::kError;
}

Sequence::Sequence(std::vector<int32_t> prompt, const SamplingOptions& sampling, int max_new_tokens, LogitTokens logits)
    : tokens(std::move(prompt)),
      prompt_length(static_cast<int>(tokens.size())),
      max_tokens(max_new_tokens),
      sampler(sampling, logits, tokens) {
  const size_t longest = tokens.size() + static_cast<size_t>(max_tokens);
  tokens.reserve(longest);
  pages.reserve((longest + kMostTreeTokens) / kPageTokens + 1);
}

}  // namespace edgewise
