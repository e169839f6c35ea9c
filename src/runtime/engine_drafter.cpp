#include "runtime/engine_drafter.h"

#include "runtime/kv_cache.h"
#include "runtime/sequence.h"

namespace edgewise {

void EngineDrafter::draft(std::span<const DraftRequest> requests, KvCache& cache) noexcept {
  ModelDrafter::draft(requests, cache);
  // The keys and values of a chain's guesses are there, should the model accept them.
  if (options().top_k > 1) return;
  for (const Tree& tree : trees()) {
    const Sequence& sequence = *tree.request->sequence;
    cache.note_followed(sequence.pages, sequence.length() + tree.slots);
  }
}

void EngineDrafter::catch_up(std::span<const DraftRequest> requests, KvCache& cache) noexcept {
  int spare = kCatchUpTokens;
  for (const DraftRequest& request : requests) {
    const int missing = add_rows(request, cache, spare);
    if (request.depth > 0 && missing == 0) start_tree(request);
  }
}

// What the engine lacks of a sequence, as far as it has pages: all that the model's step brought, of what is older no
// more than `spare`. Returns how many tokens it still lacks then. They count as followed from here on, so that of two
// sequences that share a page one fills it.
int EngineDrafter::add_rows(const DraftRequest& request, KvCache& cache, int& spare) noexcept {
  const Sequence& sequence = *request.sequence;
  const int room = static_cast<int>(sequence.pages.size()) * kPageTokens;
  const int known = std::min(sequence.decoding() ? sequence.length() : sequence.kv_length, room);
  const int begin = std::min(cache.followed(sequence.pages), sequence.kv_length);
  const auto brought = static_cast<int>(request.rows.size()) + 1;
  int count = known - begin;
  if (count > brought) {
    count = std::min(count, spare);
    spare -= count;
  }
  const auto first = static_cast<int32_t>(tokens_.size());
  int end = begin;
  for (; end < begin + count && sequence.tokens[static_cast<size_t>(end)] < vocabulary_; ++end) {
    tokens_.push_back(sequence.tokens[static_cast<size_t>(end)]);
    positions_.push_back(end);
  }
  cache.note_followed(sequence.pages, end);
  if (end > begin) slices_.push_back({first, end - begin, begin, sequence.length(), sequence.pages});
  return known - end;
}

}  // namespace edgewise
