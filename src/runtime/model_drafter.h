// Guesses of a second, smaller model, as a chain or as a dynamic tree (EAGLE-2, arXiv:2406.16858).
#pragma once

#include <algorithm>

#include "backends/backend.h"
#include "runtime/drafter.h"

namespace edgewise {

struct DraftingOptions {
  int top_k = 1;           // branches of each guess; 1: a chain
  int steps = 5;           // depth of the tree
  int verify_tokens = 60;  // of the tree that the model checks, its root included
  // Guesses that are less probable than this in the eyes of the draft model, with all before them, are not made.
  double least_chance = 0.4;

  // Throws Error(kUsage) naming the option, its value and its range.
  void check() const;
  // Guesses that the model checks when chains of `depth` are wanted.
  int tokens(int depth) const;
  // Cache slots that making and checking guesses takes.
  int slots() const { return std::max(tokens(steps), (steps - 1) * top_k); }
};

// What a draft model was loaded for.
struct DraftLimits {
  int max_sequences = 1;
  int max_step_tokens = 512;  // of the model
  int64_t hidden = 0;         // columns of hidden states that the draft model takes and gives; 0: none
};

// The draft model's cache has as many pages as the model's, and its page p holds what it computed for the tokens of the
// model's page p: sharing, eviction and preemption need no bookkeeping here.
class ModelDrafter : public Drafter {
 public:
  int tokens(int depth) const override { return options_.tokens(depth); }
  int max_depth() const override { return options_.steps; }
  int slots() const override { return options_.slots(); }
  void draft(std::span<const DraftRequest> requests, KvCache& cache) noexcept override;

 protected:
  struct Candidate {
    int32_t token;
    int32_t parent;  // candidate before it, -1: the sequence's last token
    int32_t depth;
    float score;     // log probability of all from the root to here
    int32_t hidden;  // row of the draft model's output that it was guessed from
    uint64_t mask;   // of the cache slots it sees, once it has one of its own
  };
  // One sequence while its tree grows.
  struct Tree {
    const DraftRequest* request = nullptr;
    std::vector<Candidate> candidates;
    std::vector<int32_t> frontier;  // candidates whose children are wanted next
    int slots = 0;                  // taken by candidates of levels before
  };

  // `step_tokens`: rows of its largest step. `targets`: the tokens that its logits stand for, -1 where the model has no
  // such token. `root`: slots of its cache behind Sequence::kv_length before the first guess.
  ModelDrafter(Executable& model, const DraftingOptions& options, const DraftLimits& limits, int step_tokens,
               std::vector<int32_t> targets, int root);

  // Into the step being built: the rows that the draft model lacks of each sequence, and start_tree() for those that
  // have none left and want guesses.
  virtual void catch_up(std::span<const DraftRequest> requests, KvCache& cache) noexcept = 0;
  // The last row added guesses the first level.
  void start_tree(const DraftRequest& request) noexcept;
  std::span<const Tree> trees() const { return std::span(trees_).first(growing_); }
  const DraftingOptions& options() const { return options_; }

  // The draft model's step; capacity is reserved once.
  std::vector<int32_t> tokens_;
  std::vector<int32_t> positions_;
  std::vector<float> inputs_;  // [rows, hidden]
  std::vector<SequenceSlice> slices_;

 private:
  void clear_step() noexcept;
  bool run() noexcept;
  void grow(int depth) noexcept;
  void add_level(Tree& tree) noexcept;
  void add_children(Tree& tree, int32_t parent, size_t row) noexcept;
  void choose(const Tree& tree) noexcept;

  Executable& model_;
  DraftingOptions options_;
  float least_score_;
  int64_t hidden_;
  std::vector<int32_t> targets_;
  int root_;
  std::vector<Tree> trees_;
  size_t growing_ = 0;  // trees in use
  std::vector<int32_t> rows_;
  std::vector<uint64_t> masks_;
  std::vector<float> logits_;
  std::vector<float> outputs_;  // [rows with logits, hidden]
  std::vector<int32_t> order_;
};

}  // namespace edgewise
