// Guesses of an EAGLE-3 draft head (arXiv:2503.01840), as a chain or as a dynamic tree (EAGLE-2, arXiv:2406.16858).
#pragma once

#include <algorithm>

#include "backends/backend.h"
#include "runtime/drafter.h"

namespace edgewise {

struct EagleOptions {
  int top_k = 1;           // branches of each guess; 1: a chain
  int steps = 5;           // depth of the tree
  int verify_tokens = 60;  // of the tree that the model checks, its root included
  // Guesses that are less probable than this in the eyes of the head, with all before them, are not made.
  double least_chance = 0.4;

  // Throws Error(kUsage) naming the option, its value and its range.
  void check() const;
  // Guesses that the model checks when chains of `depth` are wanted.
  int tokens(int depth) const;
  // Cache slots that making and checking guesses takes.
  int slots() const { return std::max(tokens(steps), (steps - 1) * top_k); }
};

// What a head was loaded for.
struct EagleLimits {
  int max_sequences = 1;
  int max_step_tokens = 512;  // of the model
  int64_t hidden = 0;
};

// The head's cache has as many pages as the model's, and its page p holds what it computed for the tokens of the
// model's page p: sharing, eviction and preemption need no bookkeeping here. Slot p of it depends on token p + 1 too,
// so the last slot of a page shared by two texts may be made for the other one's next token. That makes a guess worse
// now and then, and nothing wrong.
class EagleDrafter final : public Drafter {
 public:
  // `targets` are the tokens that the head's vocabulary stands for.
  EagleDrafter(Executable& head, const EagleOptions& options, const EagleLimits& limits, std::vector<int32_t> targets);

  int tokens(int depth) const override { return options_.tokens(depth); }
  int max_depth() const override { return options_.steps; }
  int slots() const override { return options_.slots(); }
  std::span<float> features() override { return features_; }
  void draft(std::span<const DraftRequest> requests) noexcept override;

 private:
  struct Candidate {
    int32_t token;
    int32_t parent;  // candidate before it, -1: the sequence's last token
    int32_t depth;
    float score;     // log probability of all from the root to here
    int32_t hidden;  // row of the head's output that it was guessed from
    uint64_t mask;   // of the cache slots it sees, once it has one of its own
  };
  // One sequence while its tree grows.
  struct Tree {
    const DraftRequest* request = nullptr;
    std::vector<Candidate> candidates;
    std::vector<int32_t> frontier;  // candidates whose children are wanted next
    int slots = 0;                  // taken by candidates of levels before
  };

  void clear_step() noexcept;
  void catch_up(std::span<const DraftRequest> requests) noexcept;
  void grow(int depth) noexcept;
  void add_level(Tree& tree) noexcept;
  bool run() noexcept;
  void add_children(Tree& tree, int32_t parent, size_t logits_row, int32_t hidden_row) noexcept;
  void choose(Tree& tree) noexcept;

  Executable& head_;
  EagleOptions options_;
  float least_score_;
  EagleLimits limits_;
  std::vector<int32_t> targets_;
  std::vector<float> features_;  // of the model's step
  std::vector<Tree> trees_;
  size_t growing_ = 0;  // trees in use

  // The head's step; capacity is reserved once.
  std::vector<int32_t> tokens_;
  std::vector<int32_t> positions_;
  std::vector<float> inputs_;  // [rows, hidden]
  std::vector<SequenceSlice> slices_;
  std::vector<int32_t> rows_;
  std::vector<uint64_t> masks_;
  std::vector<float> logits_;
  std::vector<float> outputs_;  // [rows with logits, hidden]
  std::vector<int32_t> order_;
};

}  // namespace edgewise
