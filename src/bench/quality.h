// How good an engine's predictions are: perplexity of a text, and its distance from another engine.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "backends/backend.h"
#include "runtime/session.h"

namespace edgewise {

struct Perplexity {
  int64_t tokens = 0;          // in the windows
  int64_t scored = 0;          // all but the first of each window
  int64_t bytes = 0;           // of the windows' text
  double perplexity = 0;       // exp of the mean negative log likelihood a scored token
  double byte_perplexity = 0;  // the same sum a byte of text: comparable between tokenizers
};

// Over non-overlapping windows of `context` tokens, on a session with room for all logits; a shorter one at the end is
// left out.
Perplexity measure_perplexity(Session& session, std::string_view text, int context);

struct Agreement {
  double kl = 0;    // nats, of `baseline` from `session`, mean over scored positions
  double top1 = 0;  // share of positions where both put the same token first
  double bleu = 0;  // of session's greedy continuations against baseline's, 0 to 100 (Papineni et al. 2002)
  int64_t positions = 0;
  int64_t continuations = 0;
};

// Both engines must share a vocabulary. Throws Error(kUsage) otherwise.
Agreement measure_agreement(Session& session, Session& baseline, std::string_view text, int context);

// Corpus BLEU with up to 4-grams of whitespace-separated words and brevity penalty.
double bleu(const std::vector<std::string>& candidates, const std::vector<std::string>& references);

}  // namespace edgewise
