// The decode loop: which tokens of which sequences the next step computes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "runtime/kv_cache.h"
#include "runtime/mask_worker.h"
#include "runtime/prefill_budget.h"
#include "runtime/sequence.h"
#include "runtime/speculation.h"

namespace edgewise {

struct SchedulerLimits {
  int64_t vocabulary = 0;
  int64_t hidden = 0;  // columns of the engine's final hidden states; 0: it puts out none
  int max_sequences = 1;
  int max_waiting = 1 << 20;
  int max_step_tokens = 512;  // decode rows and prefill chunks of one step together
  int kv_capacity = 2048;     // tokens of one sequence
  int kv_pages = 32;
  bool reserve_whole = true;      // linear policy: a sequence takes the pages of its longest answer when it is admitted
  bool protect_decoding = false;  // prompts get small chunks while others decode; else as much as fits a step
  bool share_prefixes = true;     // sequences that begin alike share full pages, also with those that have left
  bool weigh_drafts = true;       // guess ahead only as far as measured times say it pays; else always
};

// Plain copy of the state between steps, for check_invariants().
struct SchedulerSnapshot {
  struct Entry {
    int length = 0;
    int kv_length = 0;
    int published = 0;
    int priority = 0;
    uint64_t arrival = 0;
    bool finished = false;
    std::vector<int32_t> pages;
  };
  SchedulerLimits limits;
  std::vector<Entry> waiting;
  std::vector<Entry> running;
  KvCacheSnapshot cache;
};

// What must hold between steps; returns what does not, or "".
std::string check_invariants(const SchedulerSnapshot& snapshot);

// Runs sequences side by side: they join and leave between steps, decoding ones go first, prompts fill the rest of a
// step in chunks. When pages run out the youngest of the lowest priority leaves, and is computed again later. After
// construction a step allocates nothing.
class Scheduler {
 public:
  // `drafter` may be null; it and the executable outlive the scheduler.
  Scheduler(Executable& executable, const SchedulerLimits& limits, std::vector<int32_t> end_tokens,
            Drafter* drafter = nullptr);

  // Waits for a slot and pages. False when too many wait already. The sequence must outlive its run.
  [[nodiscard]] bool submit(Sequence& sequence);
  // Takes a running or waiting sequence out before the next step.
  void cancel(Sequence& sequence, FinishReason reason = FinishReason::kCancelled);
  bool idle() const { return waiting_.empty() && running_.empty(); }
  int running() const { return static_cast<int>(running_.size()); }
  int waiting() const { return static_cast<int>(waiting_.size()); }
  // One step for all: admits, plans, runs, samples. Sequences that finished have left when it returns.
  StepOutcome step() noexcept;

  KvCache& cache() { return cache_; }
  const KvCache& cache() const { return cache_; }
  const SpeculationStats& speculation() const { return speculation_; }
  SchedulerSnapshot snapshot() const;

 private:
  void admit() noexcept;
  bool find_room(Sequence& sequence) noexcept;
  void make_room() noexcept;
  void preempt_last() noexcept;
  void plan() noexcept;
  void add_rows(Sequence& sequence, int count) noexcept;
  void add_logits(const Sequence& sequence, int32_t row, int ahead) noexcept;
  void add_draft(Sequence& sequence) noexcept;
  StepOutcome run() noexcept;
  void commit() noexcept;
  void publish(Sequence& sequence) noexcept;
  void sample_rows(Sequence& sequence, const SequenceSlice& slice, size_t first_row) noexcept;
  void prune_draft(Sequence& sequence) noexcept;
  void keep_path(Sequence& sequence, int first_slot) noexcept;
  void draft() noexcept;
  int draft_depth(Sequence& sequence) noexcept;
  int most_drafted() const { return drafter_ == nullptr ? 0 : drafter_->tokens(drafter_->max_depth()); }
  void accept(Sequence& sequence, int32_t token) noexcept;
  void retire() noexcept;

  Executable& executable_;
  SchedulerLimits limits_;
  std::vector<int32_t> end_tokens_;
  Drafter* drafter_;
  KvCache cache_;
  PrefillBudget budget_;
  MaskWorker mask_worker_;
  uint64_t arrivals_ = 0;
  // Both by priority, then arrival: the first waits for the next slot, the last is the first to leave.
  std::vector<Sequence*> waiting_;
  std::vector<Sequence*> running_;

  // The step being built; capacity is reserved once.
  std::vector<int32_t> tokens_;
  std::vector<int32_t> positions_;
  std::vector<SequenceSlice> slices_;
  std::vector<Sequence*> sliced_;
  std::vector<int32_t> rows_;
  std::vector<int32_t> chosen_;       // of rows_: the index of the token, or that the logits came
  std::vector<RowDraw> draws_;        // of rows_ whose token is to be drawn
  std::vector<int32_t> first_rows_;   // of each slice among rows_, -1 for none
  std::vector<uint64_t> tree_masks_;  // of rows in trees
  int decoding_ = 0;                  // rows of decoding sequences, which come first
  int decoding_sequences_ = 0;
  std::vector<float> logits_;
  std::vector<float> hidden_;  // of the rows with logits, when a sequence wants its own

  // What the step leaves to the drafter.
  std::vector<int32_t> path_;  // accepted nodes of one tree
  std::vector<SlotCopy> copies_;
  std::vector<int32_t> kept_;        // rows that stay, slice by slice
  std::vector<int32_t> kept_begin_;  // of each slice
  std::vector<DraftRequest> requests_;
  std::vector<ConstraintState::Place> places_;  // behind the guesses that a constraint allows
  std::vector<int32_t> renumbered_;             // guesses of a pruned tree, -1: dropped
  SpeculationCost cost_;
  int deciding_ = 0;          // sequences that decode, as drafts are made
  bool plain_ = false;        // no guesses this time, to compare
  double draft_seconds_ = 0;  // of the guesses that the next step tries
  SpeculationStats speculation_;
};

}  // namespace edgewise
