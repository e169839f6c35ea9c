// One sequence on one executable, without a scheduler: for self-tests, goldens, perplexity and calibration.
#pragma once

#include <vector>

#include "backends/backend.h"

namespace edgewise {

class SequenceRunner {
 public:
  // Takes the pages 0, 1, ... of the executable; `max_tokens` and the vocabulary are those it was loaded with.
  SequenceRunner(Executable& executable, int64_t vocabulary, int max_tokens, int max_length, int32_t adapter = -1);

  void reset() { length_ = 0; }
  int length() const { return length_; }
  // Appends tokens, in chunks of max_tokens, and returns logits [rows, vocabulary] of the last `rows` of them, where
  // rows <= max_rows of the executable. Throws Error(kInternal) when a step fails.
  // `hidden` [tokens, columns] is for graphs that take hidden states.
  std::vector<float> append(const std::vector<int32_t>& tokens, int rows = 1, std::span<const float> hidden = {});

 private:
  Executable& executable_;
  int64_t vocabulary_;
  int max_tokens_;
  int32_t adapter_;
  int length_ = 0;
  std::vector<int32_t> pages_;
};

}  // namespace edgewise
