// The decode loop: which tokens of which sequences the next step computes.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "backends/backend.h"
#include "runtime/kv_pages.h"
#include "runtime/sampler.h"

namespace edgewise {

enum class FinishReason { kNone, kStop, kLength, kCancelled, kError };
std::string_view finish_reason_name(FinishReason reason);

// One sequence from its prompt to its last token. Owned by whoever submits it, who may read it between steps.
struct Sequence {
  Sequence(std::vector<int32_t> prompt, const SamplingOptions& sampling, int max_tokens, int64_t vocabulary);

  std::vector<int32_t> tokens;  // prompt, then answer
  int prompt_length;
  int max_tokens;           // of the answer
  bool ignore_end = false;  // end tokens do not end it
  Sampler sampler;
  int kv_length = 0;  // tokens already in the cache
  std::vector<int32_t> pages;
  FinishReason finish = FinishReason::kNone;
  std::chrono::steady_clock::time_point admitted;
  std::chrono::steady_clock::time_point first_token;
  std::chrono::steady_clock::time_point last_token;

  int generated() const { return static_cast<int>(tokens.size()) - prompt_length; }
  bool finished() const { return finish != FinishReason::kNone; }
};

struct SchedulerLimits {
  int64_t vocabulary = 0;
  int max_sequences = 1;
  int max_step_tokens = 512;  // decode rows and prefill chunks of one step together
  int kv_capacity = 2048;     // tokens of one sequence
  int kv_pages = 32;
  bool reserve_whole = true;  // linear policy: a sequence takes the pages of its longest answer when it is admitted
};

// Runs sequences side by side: they join and leave between steps, decoding ones go first, prompts fill the rest of a
// step in chunks. After construction a step allocates nothing.
class Scheduler {
 public:
  Scheduler(Executable& executable, const SchedulerLimits& limits, std::vector<int32_t> end_tokens);

  // Waits for a slot and pages. The sequence must outlive its run.
  void submit(Sequence& sequence);
  // Takes a running or waiting sequence out before the next step.
  void cancel(Sequence& sequence);
  bool idle() const { return waiting_.empty() && running_.empty(); }
  // One step for all: admits, plans, runs, samples. Sequences that finished have left when it returns.
  StepOutcome step() noexcept;
  // The sequences that got a token in the last step.
  std::span<Sequence* const> advanced() const { return advanced_; }

 private:
  void admit() noexcept;
  void plan() noexcept;
  void add_rows(Sequence& sequence, int count) noexcept;
  void commit() noexcept;
  void accept(Sequence& sequence, int32_t token) noexcept;
  void retire() noexcept;

  Executable& executable_;
  SchedulerLimits limits_;
  std::vector<int32_t> end_tokens_;
  KvPages pages_;
  std::deque<Sequence*> waiting_;
  std::vector<Sequence*> running_;
  std::vector<Sequence*> advanced_;

  // The step being built; capacity is reserved once.
  std::vector<int32_t> tokens_;
  std::vector<int32_t> positions_;
  std::vector<SequenceSlice> slices_;
  std::vector<Sequence*> sliced_;
  std::vector<int32_t> rows_;
  std::vector<Sequence*> row_owners_;
  std::vector<float> logits_;
};

}  // namespace edgewise
