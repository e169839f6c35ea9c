// A hash table of indexes into somebody's vector: what hash-consing needs, without a second copy of the values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace edgewise::grammar {

inline uint64_t hash_combine(uint64_t seed, uint64_t value) {
  seed = (seed ^ value) * 0x9E3779B97F4A7C15u;
  return seed ^ seed >> 29;
}

class HashIndex {
 public:
  static constexpr uint32_t kNone = ~uint32_t{0};

  // The index whose value has this hash and satisfies `equal(index)`; kNone when absent.
  template <typename Equal>
  uint32_t find(uint64_t hash, const Equal& equal) const {
    if (slots_.empty()) return kNone;
    const uint32_t tag = static_cast<uint32_t>(hash >> 32);
    for (size_t i = hash & (slots_.size() - 1);; i = (i + 1) & (slots_.size() - 1)) {
      if (slots_[i].index == kNone) return kNone;
      if (slots_[i].tag == tag && equal(slots_[i].index)) return slots_[i].index;
    }
  }

  // Adds an index that find() did not find; `rehash(index)` gives the hash of an earlier one.
  template <typename Rehash>
  void insert(uint64_t hash, uint32_t index, const Rehash& rehash) {
    if ((count_ + 1) * 2 > slots_.size()) grow(rehash);
    place(slots_, hash, index);
    ++count_;
  }

 private:
  struct Slot {
    uint32_t tag = 0;
    uint32_t index = kNone;
  };

  static void place(std::vector<Slot>& slots, uint64_t hash, uint32_t index) {
    size_t i = hash & (slots.size() - 1);
    while (slots[i].index != kNone) i = (i + 1) & (slots.size() - 1);
    slots[i] = {static_cast<uint32_t>(hash >> 32), index};
  }

  template <typename Rehash>
  void grow(const Rehash& rehash) {
    std::vector<Slot> larger(slots_.empty() ? 64 : slots_.size() * 2);
    for (const Slot& slot : slots_) {
      if (slot.index != kNone) place(larger, rehash(slot.index), slot.index);
    }
    slots_.swap(larger);
  }

  std::vector<Slot> slots_;
  size_t count_ = 0;
};

}  // namespace edgewise::grammar
