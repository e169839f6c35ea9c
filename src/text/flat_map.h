// An open-addressing hash map from 64-bit keys to 64-bit values, filled once and then only read.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

namespace edgewise::tok {

inline uint64_t mix_hash(uint64_t key) {
  key *= 0x9E3779B97F4A7C15u;
  return key ^ key >> 32;
}

class FlatMap {
 public:
  FlatMap() { resize(16); }

  void reserve(size_t count) {
    const size_t wanted = std::bit_ceil(count * 2 + 16);
    if (wanted > slots_.size()) resize(wanted);
  }

  // A later value for the same key replaces the earlier one. The key ~0 is reserved.
  void set(uint64_t key, uint64_t value) {
    if ((count_ + 1) * 2 > slots_.size()) resize(slots_.size() * 2);
    Slot& slot = locate(key);
    if (slot.key == kEmpty) ++count_;
    slot = {key, value};
  }

  // nullptr when absent.
  const uint64_t* find(uint64_t key) const {
    for (size_t i = mix_hash(key) & mask_;; i = (i + 1) & mask_) {
      const Slot& slot = slots_[i];
      if (slot.key == key) return &slot.value;
      if (slot.key == kEmpty) return nullptr;
    }
  }

  size_t size() const { return count_; }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  struct Slot {
    uint64_t key = kEmpty;
    uint64_t value = 0;
  };

  Slot& locate(uint64_t key) {
    size_t i = mix_hash(key) & mask_;
    while (slots_[i].key != key && slots_[i].key != kEmpty) i = (i + 1) & mask_;
    return slots_[i];
  }

  void resize(size_t capacity) {
    std::vector<Slot> old(capacity);
    old.swap(slots_);
    mask_ = capacity - 1;
    for (const Slot& slot : old) {
      if (slot.key != kEmpty) locate(slot.key) = slot;
    }
  }

  std::vector<Slot> slots_;
  size_t mask_ = 0;
  size_t count_ = 0;
};

}  // namespace edgewise::tok
