#include "bench/verify.h"

#include <algorithm>
#include <cmath>

#include "backends/sequence_runner.h"
#include "base/error.h"
#include "bench/statistics.h"
#include "formats/safetensors.h"

namespace edgewise {
namespace {

struct GoldenPrompt {
  std::vector<int32_t> ids;
  Tensor logits;
  std::vector<int32_t> greedy;
};

std::vector<int32_t> token_list(const Tensor& tensor, int64_t vocabulary, const std::string& what) {
  std::vector<int32_t> result;
  for (const int64_t id : tensor.to_int64()) {
    if (id < 0 || id >= vocabulary) bad_file("{}: token {} is outside the vocabulary of {}", what, id, vocabulary);
    result.push_back(static_cast<int32_t>(id));
  }
  return result;
}

std::vector<GoldenPrompt> read_golden(const std::filesystem::path& path, int64_t vocabulary) {
  const auto file = SafetensorsFile::open(path);
  std::vector<GoldenPrompt> prompts;
  for (int i = 0; file.contains(fmt::format("prompt_{}_ids", i)); ++i) {
    const std::string prefix = fmt::format("prompt_{}_", i);
    GoldenPrompt prompt;
    prompt.ids = token_list(file.at(prefix + "ids"), vocabulary, path.string());
    prompt.logits = file.at(prefix + "logits");
    if (file.contains(prefix + "greedy"))
      prompt.greedy = token_list(file.at(prefix + "greedy"), vocabulary, path.string());
    if (prompt.ids.empty() || prompt.logits.rank() != 2 || prompt.logits.dim(1) != vocabulary ||
        prompt.logits.dim(0) < 1 || prompt.logits.dim(0) > static_cast<int64_t>(prompt.ids.size())) {
      bad_file("{}: {}logits: expected [at most {}, {}], found {}", path.string(), prefix, prompt.ids.size(),
               vocabulary, shape_text(prompt.logits.shape()));
    }
    prompts.push_back(std::move(prompt));
  }
  if (prompts.empty()) bad_file("{}: no tensors prompt_0_ids, prompt_0_logits", path.string());
  return prompts;
}

void compare_logits(const GoldenPrompt& prompt, std::span<const float> found, VerifyResult& result) {
  const auto golden = prompt.logits.to_floats();
  const auto width = static_cast<size_t>(prompt.logits.dim(1));
  double largest = 0;
  double worst = 0;
  for (size_t i = 0; i < golden.size(); ++i) {
    largest = std::max(largest, std::fabs(double{golden[i]}));
    const double difference = std::fabs(double{golden[i]} - double{found[i]});
    worst = std::isfinite(difference) ? std::max(worst, difference) : INFINITY;
  }
  result.max_relative_error = std::max(result.max_relative_error, worst / largest);
  for (size_t at = 0; at < golden.size(); at += width) {
    result.mean_kl += kl_divergence(std::span(golden).subspan(at, width), found.subspan(at, width));
    ++result.rows;
  }
}

// Fed with the golden's own tokens, so that one close call does not spoil all that follows.
void compare_greedy(const GoldenPrompt& prompt, SequenceRunner& runner, std::vector<float> logits, double noise_share,
                    VerifyResult& result) {
  for (size_t i = 0; i < prompt.greedy.size(); ++i) {
    const auto best = std::max_element(logits.begin(), logits.end());
    double largest = 0;
    for (const float x : logits) largest = std::max(largest, std::fabs(double{x}));
    const float expected = logits[static_cast<size_t>(prompt.greedy[i])];
    ++result.greedy_tokens;
    if (best - logits.begin() == prompt.greedy[i]) {
      ++result.greedy_equal;
    } else if (double{*best} - double{expected} > noise_share * largest) {
      ++result.greedy_wrong;
    }
    if (i + 1 < prompt.greedy.size()) logits = runner.append({prompt.greedy[i]});
  }
}

}  // namespace

VerifyTolerance verify_tolerance(DType dtype) {
  if (dtype == DType::kF32) return {1e-4, 1e-6, 1e-4};
  // A rounded cache may turn a close call of a router or a logit; what must hold is the distribution and every clear
  // choice of a token.
  return {INFINITY, 1e-2, 2e-2};
}

VerifyResult verify_engine(const Engine& engine, const std::filesystem::path& golden, double noise_share) {
  const int64_t vocabulary = engine.graph.value(engine.graph.outputs().at(0)).shape.at(1);
  const auto prompts = read_golden(golden, vocabulary);
  int longest = 0;
  int rows = 1;
  for (const GoldenPrompt& prompt : prompts) {
    longest = std::max(longest, static_cast<int>(prompt.ids.size() + prompt.greedy.size()));
    rows = std::max(rows, static_cast<int>(prompt.logits.dim(0)));
  }
  constexpr int kStepTokens = 64;  // so that prompts of 100 tokens take more than one chunk
  const auto executable = find_backend(engine.info.device)
                              .load(engine.graph, {.max_tokens = kStepTokens,
                                                   .max_rows = std::min(rows, kStepTokens),
                                                   .kv_pages = longest / kPageTokens + 1,
                                                   .kv_dtype = engine.info.kv_dtype});
  SequenceRunner runner(*executable, vocabulary, kStepTokens, longest + 1);
  VerifyResult result;
  result.noise = noise_share;
  for (const GoldenPrompt& prompt : prompts) {
    runner.reset();
    const auto found = runner.append(prompt.ids, static_cast<int>(prompt.logits.dim(0)));
    compare_logits(prompt, found, result);
    compare_greedy(prompt, runner, {found.end() - vocabulary, found.end()}, noise_share, result);
    ++result.prompts;
  }
  result.mean_kl /= static_cast<double>(result.rows);
  return result;
}

bool within(const VerifyResult& result, const VerifyTolerance& tolerance) {
  return result.max_relative_error <= tolerance.relative_error && result.mean_kl <= tolerance.kl &&
         result.greedy_wrong == 0;
}

}  // namespace edgewise
