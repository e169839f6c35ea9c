// Speculative decoding: tokens guessed ahead, which the model then checks in one step. Each token of an answer is still
// drawn from the model's own distribution, with the random numbers it would have had: guesses change the speed only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace edgewise {

class KvCache;
struct Sequence;

// Tokens to try behind a sequence's last one, parents before their children.
struct DraftTree {
  std::vector<int32_t> tokens;
  std::vector<int32_t> parents;  // index of the token before it, -1: the sequence's last one

  int size() const { return static_cast<int>(tokens.size()); }
  bool empty() const { return tokens.empty(); }
  void add(int32_t token, int32_t parent) {
    tokens.push_back(token);
    parents.push_back(parent);
  }
  void clear() {
    tokens.clear();
    parents.clear();
  }
  void reserve(size_t count) {
    tokens.reserve(count);
    parents.reserve(count);
  }
  bool is_chain() const {
    for (int i = 0; i < size(); ++i) {
      if (parents[static_cast<size_t>(i)] != i - 1) return false;
    }
    return true;
  }
  // The child of `parent` that carries the token, -1 when there is none.
  int32_t child(int32_t parent, int32_t token) const {
    for (size_t i = static_cast<size_t>(parent + 1); i < tokens.size(); ++i) {
      if (parents[i] == parent && tokens[i] == token) return static_cast<int32_t>(i);
    }
    return -1;
  }
};

// What a step left of one sequence, and how far it is worth guessing on.
struct DraftRequest {
  Sequence* sequence = nullptr;
  std::span<const int32_t> rows;  // of the step, one for each token that stays
  int first = 0;                  // position of the first of them
  int depth = 0;                  // longest chain of guesses wanted; 0: none
};

class Drafter {
 public:
  virtual ~Drafter() = default;
  // Guesses for one sequence when chains of `depth` are wanted; never more than at the largest depth.
  virtual int tokens(int depth) const = 0;
  virtual int max_depth() const = 0;
  // Cache slots behind a sequence's tokens that making and trying guesses may take.
  virtual int slots() const { return tokens(max_depth()); }
  // Where the model's second output is wanted, [rows of a step, columns]; empty: not at all.
  virtual std::span<float> features() { return {}; }
  // After each step, for all sequences it brought on: fills Sequence::draft of those with a depth. Allocates nothing.
  // `cache` knows the sequences' pages, and how far a drafter with pages of its own has followed.
  virtual void draft(std::span<const DraftRequest> requests, KvCache& cache) noexcept = 0;
};

}  // namespace edgewise
