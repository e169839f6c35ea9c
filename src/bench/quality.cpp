#include "bench/quality.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <sstream>

#include "backends/best_rows.h"
#include "backends/sequence_runner.h"
#include "base/error.h"
#include "base/progress.h"
#include "bench/statistics.h"

namespace edgewise {
namespace {

constexpr int kContinuations = 32;       // greedy answers BLEU is taken over
constexpr int kContinuationPrompt = 64;  // tokens
constexpr int kContinuationLength = 64;  // tokens

// Logits of windows of a text, handed on in chunks of at most a step's tokens.
class WindowRunner {
 public:
  WindowRunner(Session& session, int context)
      : vocabulary_(session.vocabulary()),
        chunk_(session.max_step_tokens()),
        runner_(session.executable(), session.vocabulary(), chunk_, context) {
    if (session.reduced())
      usage_error("perplexity needs the logits of all tokens; this engine has a reduced vocabulary");
  }

  void start() { runner_.reset(); }
  std::vector<float> next(std::span<const int32_t> tokens) {
    return runner_.append({tokens.begin(), tokens.end()}, static_cast<int>(tokens.size()));
  }
  int chunk() const { return chunk_; }
  size_t vocabulary() const { return static_cast<size_t>(vocabulary_); }

 private:
  int64_t vocabulary_;
  int chunk_;
  SequenceRunner runner_;
};

void check_context(const Session& session, int context) {
  if (context < 2 || context > session.info().kv_capacity) {
    usage_error("--context {}: expected 2 to {}, the engine's cache", context, session.info().kv_capacity);
  }
}

// Without the last, shorter window, unless it is the only one.
std::vector<int32_t> whole_windows(std::vector<int32_t> ids, int context) {
  const size_t whole = ids.size() / static_cast<size_t>(context) * static_cast<size_t>(context);
  if (whole > 0) ids.resize(whole);
  return ids;
}

// Calls visit(first token of the chunk in `ids`, tokens) over all windows.
template <typename Visit>
void for_each_chunk(size_t tokens, int context, int chunk, const char* title, Visit visit) {
  Progress progress(title, static_cast<int64_t>(tokens), "tokens");
  for (size_t begin = 0; begin < tokens; begin += static_cast<size_t>(context)) {
    const size_t end = std::min(tokens, begin + static_cast<size_t>(context));
    for (size_t at = begin; at < end; at += static_cast<size_t>(chunk)) {
      const size_t count = std::min(static_cast<size_t>(chunk), end - at);
      visit(at == begin, at, count, end);
      progress.advance(static_cast<int64_t>(count));
    }
  }
}

}  // namespace

Perplexity measure_perplexity(Session& session, std::string_view text, int context) {
  check_context(session, context);
  const auto ids = whole_windows(session.tokenizer().encode(text, false), context);
  if (ids.size() < 2) usage_error("the text has {} tokens; perplexity needs at least 2", ids.size());
  WindowRunner runner(session, context);
  Perplexity result;
  result.tokens = static_cast<int64_t>(ids.size());
  result.bytes = static_cast<int64_t>(session.tokenizer().decode(ids, false).size());
  double sum = 0;
  for_each_chunk(ids.size(), context, runner.chunk(), "eval", [&](bool first, size_t at, size_t count, size_t end) {
    if (first) runner.start();
    const auto logits = runner.next(std::span(ids).subspan(at, count));
    for (size_t i = 0; i < count && at + i + 1 < end; ++i) {
      const auto row = std::span(logits).subspan(i * runner.vocabulary(), runner.vocabulary());
      sum += log_sum_exp(row) - double{row[static_cast<size_t>(ids[at + i + 1])]};
      ++result.scored;
    }
  });
  result.perplexity = std::exp(sum / static_cast<double>(result.scored));
  result.byte_perplexity = std::exp(sum / static_cast<double>(result.bytes));
  return result;
}

double bleu(const std::vector<std::string>& candidates, const std::vector<std::string>& references) {
  constexpr size_t kOrders = 4;
  double matches[kOrders] = {};
  double totals[kOrders] = {};
  double candidate_length = 0;
  double reference_length = 0;
  const auto words = [](const std::string& text) {
    std::istringstream stream(text);
    return std::vector<std::string>{std::istream_iterator<std::string>(stream), {}};
  };
  using Counts = std::map<std::vector<std::string>, int>;
  const auto count_ngrams = [](const std::vector<std::string>& list, size_t order) {
    Counts counts;
    for (size_t i = 0; i + order <= list.size(); ++i) {
      ++counts[{list.begin() + static_cast<std::ptrdiff_t>(i), list.begin() + static_cast<std::ptrdiff_t>(i + order)}];
    }
    return counts;
  };
  for (size_t s = 0; s < candidates.size(); ++s) {
    const auto candidate = words(candidates[s]);
    const auto reference = words(references[s]);
    candidate_length += static_cast<double>(candidate.size());
    reference_length += static_cast<double>(reference.size());
    for (size_t order = 1; order <= kOrders; ++order) {
      const Counts in_reference = count_ngrams(reference, order);
      for (const auto& [ngram, count] : count_ngrams(candidate, order)) {
        const auto found = in_reference.find(ngram);
        matches[order - 1] += found == in_reference.end() ? 0 : std::min(count, found->second);
        totals[order - 1] += count;
      }
    }
  }
  double log_precision = 0;
  for (size_t i = 0; i < kOrders; ++i) {
    if (matches[i] == 0) return 0;
    log_precision += std::log(matches[i] / totals[i]) / kOrders;
  }
  const double brevity = candidate_length < reference_length ? 1 - reference_length / candidate_length : 0;
  return 100 * std::exp(log_precision + brevity);
}

Agreement measure_agreement(Session& session, Session& baseline, std::string_view text, int context) {
  check_context(session, context);
  check_context(baseline, context);
  if (session.vocabulary() != baseline.vocabulary()) {
    usage_error("--against: the engines have vocabularies of {} and {} tokens", session.vocabulary(),
                baseline.vocabulary());
  }
  const auto ids = whole_windows(session.tokenizer().encode(text, false), context);
  WindowRunner runner(session, context);
  WindowRunner other(baseline, context);
  Agreement result;
  const int chunk = std::min(runner.chunk(), other.chunk());
  for_each_chunk(ids.size(), context, chunk, "eval: agreement", [&](bool first, size_t at, size_t count, size_t) {
    if (first) {
      runner.start();
      other.start();
    }
    const auto found = runner.next(std::span(ids).subspan(at, count));
    const auto expected = other.next(std::span(ids).subspan(at, count));
    for (size_t i = 0; i < count; ++i) {
      const auto q = std::span(found).subspan(i * runner.vocabulary(), runner.vocabulary());
      const auto p = std::span(expected).subspan(i * runner.vocabulary(), runner.vocabulary());
      result.kl += kl_divergence(p, q);
      result.top1 += argmax(q) == argmax(p) ? 1 : 0;
      ++result.positions;
    }
  });
  result.kl /= static_cast<double>(result.positions);
  result.top1 /= static_cast<double>(result.positions);
  std::vector<std::string> candidates;
  std::vector<std::string> references;
  const size_t stride = std::max<size_t>(ids.size() / kContinuations, kContinuationPrompt);
  for (size_t at = 0; at + kContinuationPrompt <= ids.size() && candidates.size() < kContinuations; at += stride) {
    Request request;
    request.prompt.assign(ids.begin() + static_cast<std::ptrdiff_t>(at),
                          ids.begin() + static_cast<std::ptrdiff_t>(at + kContinuationPrompt));
    request.max_tokens = kContinuationLength;
    candidates.push_back(session.generate(request).text);
    references.push_back(baseline.generate(request).text);
  }
  result.continuations = static_cast<int64_t>(candidates.size());
  result.bleu = bleu(candidates, references);
  return result;
}

}  // namespace edgewise
