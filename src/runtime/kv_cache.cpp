#include "runtime/kv_cache.h"

#include <algorithm>
#include <bit>

#include "base/error.h"

namespace edgewise {

KvCache::KvCache(int pages, bool share) : share_(share), pages_(static_cast<size_t>(pages)) {
  for (int32_t id = pages - 1; id >= 0; --id) free_.push_back(id);
  buckets_.assign(std::bit_ceil(pages_.size() * 2 + 1), kNoPage);
}

size_t KvCache::bucket(int32_t parent, int32_t adapter, std::span<const int32_t, kPageTokens> tokens) const noexcept {
  uint64_t hash = (uint64_t{static_cast<uint32_t>(parent)} << 32 | static_cast<uint32_t>(adapter)) + 0x9e3779b97f4a7c15;
  for (const int32_t token : tokens) hash = (std::rotl(hash, 23) ^ static_cast<uint32_t>(token)) * 0xd6e8feb86659fd93;
  return static_cast<size_t>(hash ^ (hash >> 32)) & (buckets_.size() - 1);
}

int32_t KvCache::find(int32_t parent, int32_t adapter, std::span<const int32_t, kPageTokens> tokens) const noexcept {
  int32_t id = buckets_[bucket(parent, adapter, tokens)];
  for (; id != kNoPage; id = pages_[static_cast<size_t>(id)].next_in_bucket) {
    const Page& candidate = pages_[static_cast<size_t>(id)];
    if (candidate.parent == parent && candidate.adapter == adapter && std::ranges::equal(candidate.tokens, tokens))
      break;
  }
  return id;
}

void KvCache::unlink(int32_t id) noexcept {
  Page& p = page(id);
  (p.older == kNoPage ? oldest_ : page(p.older).newer) = p.newer;
  (p.newer == kNoPage ? newest_ : page(p.newer).older) = p.older;
  p.older = p.newer = kNoPage;
  --unused_count_;
}

void KvCache::use(int32_t id) noexcept {
  Page& p = page(id);
  if (p.uses++ == 0 && p.shared) unlink(id);
}

void KvCache::give_back(int32_t id) noexcept {
  Page& p = page(id);
  if (--p.uses > 0) return;
  if (!p.shared) return free_.push_back(id);
  p.older = newest_;
  (newest_ == kNoPage ? oldest_ : page(newest_).newer) = id;
  newest_ = id;
  ++unused_count_;
}

// Takes an unused page out of the tree; its memory is free.
void KvCache::forget(int32_t id) noexcept {
  Page& p = page(id);
  unlink(id);
  int32_t* link = &buckets_[bucket(p.parent, p.adapter, p.tokens)];
  while (*link != id) link = &page(*link).next_in_bucket;
  *link = p.next_in_bucket;
  p.next_in_bucket = p.parent = kNoPage;
  p.shared = false;
  free_.push_back(id);
}

int32_t KvCache::take() noexcept {
  if (free_.empty()) forget(oldest_);
  const int32_t id = free_.back();
  free_.pop_back();
  page(id).uses = 1;
  page(id).followed = 0;
  return id;
}

int KvCache::reuse(std::span<const int32_t> tokens, int32_t adapter, std::vector<int32_t>& table) noexcept {
  int32_t parent = kNoPage;
  size_t known = 0;
  while (known + kPageTokens < tokens.size()) {
    const int32_t id = find(parent, adapter, tokens.subspan(known).first<kPageTokens>());
    if (id == kNoPage) break;
    use(id);
    table.push_back(id);
    parent = id;
    known += kPageTokens;
  }
  return static_cast<int>(known);
}

bool KvCache::reserve(std::vector<int32_t>& table, int tokens) noexcept {
  const auto needed = static_cast<size_t>((tokens + kPageTokens - 1) / kPageTokens);
  if (needed <= table.size()) return true;
  if (needed - table.size() > static_cast<size_t>(available())) return false;
  while (table.size() < needed) table.push_back(take());
  return true;
}

void KvCache::publish(std::vector<int32_t>& table, size_t index, std::span<const int32_t, kPageTokens> tokens,
                      int32_t adapter) noexcept {
  if (!share_) return;
  const int32_t id = table[index];
  const int32_t parent = index == 0 ? kNoPage : table[index - 1];
  const int32_t known = find(parent, adapter, tokens);
  if (known == id) return;
  if (known != kNoPage) {
    use(known);
    table[index] = known;
    return give_back(id);
  }
  Page& p = page(id);
  p.shared = true;
  p.parent = parent;
  p.adapter = adapter;
  std::ranges::copy(tokens, p.tokens.begin());
  int32_t& first = buckets_[bucket(parent, adapter, tokens)];
  p.next_in_bucket = first;
  first = id;
}

void KvCache::release(std::vector<int32_t>& table) noexcept {
  for (; !table.empty(); table.pop_back()) give_back(table.back());
}

int KvCache::followed(std::span<const int32_t> table) const noexcept {
  int tokens = 0;
  for (const int32_t id : table) {
    const int32_t here = pages_[static_cast<size_t>(id)].followed;
    tokens += here;
    if (here < kPageTokens) break;
  }
  return tokens;
}

void KvCache::note_followed(std::span<const int32_t> table, int tokens) noexcept {
  for (const int32_t id : table) {
    page(id).followed = std::clamp(tokens, 0, kPageTokens);
    tokens -= kPageTokens;
  }
}

bool KvCache::pin(std::span<const int32_t> table) noexcept {
  int fresh = 0;
  for (const int32_t id : table) fresh += page(id).shared && !page(id).pinned;
  if (pinned_count_ + fresh > pages() / 2) return false;
  for (const int32_t id : table) {
    if (!page(id).shared) break;  // none behind it is in the tree either
    if (page(id).pinned) continue;
    page(id).pinned = true;
    use(id);
    ++pinned_count_;
  }
  return true;
}

void KvCache::clear() noexcept {
  for (auto id = static_cast<int32_t>(pages_.size()) - 1; pinned_count_ > 0 && id >= 0; --id) {
    if (!page(id).pinned) continue;
    page(id).pinned = false;
    --pinned_count_;
    give_back(id);
  }
  while (oldest_ != kNoPage) forget(oldest_);
}

KvCacheSnapshot KvCache::snapshot() const {
  KvCacheSnapshot result;
  for (const Page& p : pages_) result.pages.push_back({p.uses, p.shared, p.pinned, p.parent, p.adapter});
  result.free = free_;
  for (int32_t id = oldest_; id != kNoPage; id = pages_[static_cast<size_t>(id)].newer) result.unused.push_back(id);
  return result;
}

std::string check_invariants(const KvCacheSnapshot& cache, std::span<const std::vector<int32_t>> tables) {
  const size_t count = cache.pages.size();
  std::vector<int32_t> uses(count, 0);
  std::vector<int> places(count, 0);  // a page is free, or unused, or used
  for (const auto& table : tables) {
    for (size_t i = 0; i < table.size(); ++i) {
      const auto id = static_cast<size_t>(table[i]);
      if (id >= count) return fmt::format("page {} does not exist", id);
      ++uses[id];
      if (cache.pages[id].shared && cache.pages[id].parent != (i == 0 ? kNoPage : table[i - 1])) {
        return fmt::format("page {} follows another page in a table than in the tree", id);
      }
    }
  }
  for (size_t id = 0; id < count; ++id) {
    const KvCacheSnapshot::Page& p = cache.pages[id];
    if (p.uses != uses[id] + p.pinned)
      return fmt::format("page {}: {} uses counted, {} found", id, p.uses, uses[id] + p.pinned);
    if (p.uses > 0) ++places[id];
    if (p.pinned && !p.shared) return fmt::format("page {} is pinned and not in the tree", id);
    if (!p.shared && uses[id] > 1) return fmt::format("page {} has {} users and is not in the tree", id, uses[id]);
    if (p.shared && p.parent != kNoPage && !cache.pages[static_cast<size_t>(p.parent)].shared) {
      return fmt::format("page {} is in the tree, page {} before it is not", id, p.parent);
    }
    if (p.shared && p.parent != kNoPage && p.uses > 0 && cache.pages[static_cast<size_t>(p.parent)].uses == 0) {
      return fmt::format("page {} is used, page {} before it is not", id, p.parent);
    }
  }
  for (const int32_t id : cache.free) {
    ++places[static_cast<size_t>(id)];
    if (cache.pages[static_cast<size_t>(id)].shared) return fmt::format("page {} is free and in the tree", id);
  }
  for (const int32_t id : cache.unused) ++places[static_cast<size_t>(id)];
  for (size_t id = 0; id < count; ++id) {
    if (places[id] != 1) return fmt::format("page {} is in {} of free, unused and used", id, places[id]);
  }
  return "";
}

}  // namespace edgewise
