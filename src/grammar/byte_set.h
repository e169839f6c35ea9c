// A set of byte values.
#pragma once

#include <array>
#include <bit>
#include <compare>
#include <cstdint>

namespace edgewise::grammar {

class ByteSet {
 public:
  constexpr ByteSet() = default;
  static constexpr ByteSet range(int first, int last) {
    ByteSet set;
    for (int byte = first; byte <= last; ++byte) set.add(static_cast<uint8_t>(byte));
    return set;
  }
  static constexpr ByteSet all() { return ~ByteSet(); }

  constexpr void add(uint8_t byte) { words_[byte >> 6] |= uint64_t{1} << (byte & 63); }
  constexpr bool has(uint8_t byte) const { return words_[byte >> 6] >> (byte & 63) & 1; }
  constexpr bool empty() const { return (words_[0] | words_[1] | words_[2] | words_[3]) == 0; }
  constexpr int count() const {
    int total = 0;
    for (const uint64_t word : words_) total += std::popcount(word);
    return total;
  }
  constexpr uint8_t first() const {  // of a set that is not empty
    int word = 0;
    while (words_[word] == 0) ++word;
    return static_cast<uint8_t>(word * 64 + std::countr_zero(words_[word]));
  }
  template <typename Visit>
  constexpr void for_each(const Visit& visit) const {
    for (int word = 0; word < 4; ++word) {
      for (uint64_t left = words_[word]; left != 0; left &= left - 1) {
        visit(static_cast<uint8_t>(word * 64 + std::countr_zero(left)));
      }
    }
  }

  constexpr uint64_t word(int index) const { return words_[index]; }
  constexpr auto operator<=>(const ByteSet&) const = default;
  constexpr ByteSet operator|(const ByteSet& other) const {
    ByteSet out;
    for (int i = 0; i < 4; ++i) out.words_[i] = words_[i] | other.words_[i];
    return out;
  }
  constexpr ByteSet operator&(const ByteSet& other) const {
    ByteSet out;
    for (int i = 0; i < 4; ++i) out.words_[i] = words_[i] & other.words_[i];
    return out;
  }
  constexpr ByteSet operator~() const {
    ByteSet out;
    for (int i = 0; i < 4; ++i) out.words_[i] = ~words_[i];
    return out;
  }

 private:
  std::array<uint64_t, 4> words_{};
};

}  // namespace edgewise::grammar
