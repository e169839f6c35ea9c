// A fixed-size cache of tokenized words, owned by one thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "text/flat_map.h"

namespace edgewise::tok {

// Direct-mapped: a word evicts whatever had its place. One entry is one cache line, and holds words of up to
// 31 bytes with up to 7 ids, which is nearly all of them; others are tokenized anew.
class WordCache {
 public:
  static constexpr size_t kMaxWordBytes = 31;
  static constexpr size_t kMaxIds = 7;

  struct Key {
    uint64_t words[4];  // the bytes, zero-padded, with the length in the last one
    uint64_t hash() const {
      uint64_t h = words[0] * 0x9E3779B97F4A7C15u;
      h = (h ^ h >> 29 ^ words[1]) * 0xBF58476D1CE4E5B9u;
      h = (h ^ h >> 32 ^ words[2]) * 0x94D049BB133111EBu;
      h = (h ^ h >> 31 ^ words[3]) * 0x9E3779B97F4A7C15u;
      return h >> (64 - kIndexBits);
    }
  };

  WordCache() : entries_(size_t{1} << kIndexBits) {}

  // `word` is not longer than kMaxWordBytes and not empty.
  static Key make_key(std::string_view word) {
    Key key{};
    auto* bytes = reinterpret_cast<char*>(key.words);
    if (word.size() <= 16) {
      copy_short(bytes, word);
    } else {
      std::memcpy(bytes, word.data(), 16);
      copy_short(bytes + 16, word.substr(16));
    }
    key.words[3] |= uint64_t{word.size()} << 56;
    return key;
  }

  // Appends the word's ids; false when it is not cached.
  bool find(const Key& key, std::vector<int32_t>& ids) const {
    const Entry& entry = entries_[key.hash()];
    if (std::memcmp(entry.key.words, key.words, sizeof key.words) != 0) return false;
    ids.insert(ids.end(), entry.ids, entry.ids + entry.count);
    return true;
  }

  void put(const Key& key, const int32_t* ids, size_t count) {
    if (count > kMaxIds) return;
    Entry& entry = entries_[key.hash()];
    entry.key = key;
    entry.count = static_cast<int32_t>(count);
    std::copy_n(ids, count, entry.ids);
  }

 private:
  static constexpr int kIndexBits = 15;

  // Up to 16 bytes, in two overlapping halves.
  static void copy_short(char* to, std::string_view word) {
    const size_t size = word.size();
    if (size >= 8) {
      std::memcpy(to, word.data(), 8);
      uint64_t tail;
      std::memcpy(&tail, word.data() + size - 8, 8);
      if (size > 8) {
        tail >>= (16 - size) * 8;
        std::memcpy(to + 8, &tail, 8);
      }
      return;
    }
    for (size_t i = 0; i < size; ++i) to[i] = word[i];
  }

  struct alignas(64) Entry {
    Key key{};  // length 0: unused, for no word is empty
    int32_t count = 0;
    int32_t ids[kMaxIds];
  };
  std::vector<Entry> entries_;
};

}  // namespace edgewise::tok
