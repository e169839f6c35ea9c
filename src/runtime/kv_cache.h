// Which page of the KV cache belongs to whom, and which full pages serve other sequences that begin alike. The pages
// themselves lie in the backend.
//
// Full pages form a tree: a page is known by the page before it, the adapter it was computed with, and its 64 tokens.
// Sequences share pages by count of uses; a page that nobody uses stays in the tree until its memory is needed, the
// least recently used first. Users of a page use all pages before it, and give them back last to first, so the oldest
// unused page never has another one behind it.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "backends/backend.h"

namespace edgewise {

inline constexpr int32_t kNoPage = -1;

// Plain copy of the whole state, for check_invariants().
struct KvCacheSnapshot {
  struct Page {
    int32_t uses = 0;
    bool shared = false;  // in the tree
    bool pinned = false;
    int32_t parent = kNoPage;
    int32_t adapter = -1;
  };
  std::vector<Page> pages;
  std::vector<int32_t> free;
  std::vector<int32_t> unused;  // in the tree, the least recently used first
};

class KvCache {
 public:
  // With `share` off no page outlives its sequence.
  KvCache(int pages, bool share);

  int pages() const { return static_cast<int>(pages_.size()); }
  // Pages a new sequence could get: empty ones, and unused ones of the tree.
  int available() const { return static_cast<int>(free_.size()) + unused_count_; }

  // Appends to the empty `table` the pages that hold the longest known beginning of `tokens`, short of its last token,
  // whose logits somebody wants. Returns the tokens they hold.
  int reuse(std::span<const int32_t> tokens, int32_t adapter, std::vector<int32_t>& table) noexcept;
  // Extends `table` to hold `tokens` tokens. False, with the table unchanged, when pages run out.
  bool reserve(std::vector<int32_t>& table, int tokens) noexcept;
  // Page `index` of the table is full of `tokens` and will not change: into the tree. The table gets the page that is
  // there already when another sequence was faster. Pages before `index` must have been published.
  void publish(std::vector<int32_t>& table, size_t index, std::span<const int32_t, kPageTokens> tokens,
               int32_t adapter) noexcept;
  // Gives all pages back and empties the table.
  void release(std::vector<int32_t>& table) noexcept;

  // Tokens at the beginning of `table` that a drafter holds in pages of its own with the same numbers; none in a page
  // that is new. It may note more than the sequence has: guesses, which count once the model accepted them.
  int followed(std::span<const int32_t> table) const noexcept;
  void note_followed(std::span<const int32_t> table, int tokens) noexcept;

  // Keeps the published pages of `table` in the tree for good. At most half of all pages; false beyond that.
  bool pin(std::span<const int32_t> table) noexcept;
  // Forgets all unused pages and pins, as when weights of an adapter change.
  void clear() noexcept;

  KvCacheSnapshot snapshot() const;

 private:
  struct Page {
    int32_t uses = 0;
    bool shared = false;
    bool pinned = false;
    int32_t parent = kNoPage;
    int32_t adapter = -1;
    int32_t followed = 0;     // tokens that a drafter holds
    int32_t newer = kNoPage;  // neighbours in the list of unused pages
    int32_t older = kNoPage;
    int32_t next_in_bucket = kNoPage;
    std::array<int32_t, kPageTokens> tokens{};
  };

  Page& page(int32_t id) { return pages_[static_cast<size_t>(id)]; }
  size_t bucket(int32_t parent, int32_t adapter, std::span<const int32_t, kPageTokens> tokens) const noexcept;
  int32_t find(int32_t parent, int32_t adapter, std::span<const int32_t, kPageTokens> tokens) const noexcept;
  void use(int32_t id) noexcept;
  void give_back(int32_t id) noexcept;
  int32_t take() noexcept;
  void unlink(int32_t id) noexcept;
  void forget(int32_t id) noexcept;

  bool share_;
  std::vector<Page> pages_;
  std::vector<int32_t> free_;
  std::vector<int32_t> buckets_;  // first page of each; a power of two of them
  int32_t oldest_ = kNoPage;
  int32_t newest_ = kNoPage;
  int unused_count_ = 0;
  int pinned_count_ = 0;
};

// What must hold between steps. `tables`: the page tables of all sequences. Returns what does not hold, or "".
std::string check_invariants(const KvCacheSnapshot& cache, std::span<const std::vector<int32_t>> tables);

}  // namespace edgewise
