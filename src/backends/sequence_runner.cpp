#include "backends/sequence_runner.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"

namespace edgewise {

SequenceRunner::SequenceRunner(Executable& executable, int64_t vocabulary, int max_tokens, int max_length,
                               int32_t adapter)
    : executable_(executable), vocabulary_(vocabulary), max_tokens_(max_tokens), adapter_(adapter) {
  pages_.resize(static_cast<size_t>((max_length + kPageTokens - 1) / kPageTokens));
  std::iota(pages_.begin(), pages_.end(), 0);
}

std::vector<float> SequenceRunner::append(const std::vector<int32_t>& tokens, int rows, std::span<const float> hidden) {
  const auto count = static_cast<int>(tokens.size());
  check_internal(static_cast<size_t>(length_ + count) <= pages_.size() * kPageTokens, "sequence longer than its pages");
  std::vector<float> logits(static_cast<size_t>(rows * vocabulary_));
  const int context = length_ + count;
  const size_t columns = count == 0 ? 0 : hidden.size() / tokens.size();
  size_t written = 0;
  for (int begin = 0; begin < count;) {
    const int n = std::min(max_tokens_, count - begin);
    std::vector<int32_t> positions(static_cast<size_t>(n));
    std::iota(positions.begin(), positions.end(), length_);
    std::vector<int32_t> wanted;
    for (int i = 0; i < n; ++i) {
      if (begin + i >= count - rows) wanted.push_back(i);
    }
    const SequenceSlice sequence{0, n, length_, context, pages_, adapter_};
    const auto out = std::span(logits).subspan(written, wanted.size() * static_cast<size_t>(vocabulary_));
    const StepOutcome outcome =
        executable_.run({std::span(tokens).subspan(static_cast<size_t>(begin), static_cast<size_t>(n)),
                         positions,
                         hidden.subspan(static_cast<size_t>(begin) * columns, static_cast<size_t>(n) * columns),
                         {&sequence, 1},
                         wanted},
                        out);
    if (outcome != StepOutcome::kDone) fail(ErrorKind::kInternal, "a step failed: {}", outcome_name(outcome));
    written += out.size();
    length_ += n;
    begin += n;
  }
  return logits;
}

}  // namespace edgewise
