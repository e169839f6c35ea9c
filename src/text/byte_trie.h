// A set of byte strings with values, searched for the strings that a text begins with.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "text/flat_map.h"

namespace edgewise::tok {

class ByteTrie {
 public:
  static constexpr uint32_t kRoot = 0;
  static constexpr uint32_t kNone = ~uint32_t{0};

  ByteTrie() { first_.fill(kNone); }

  void add(std::string_view key, int32_t value);

  // The node one byte further, or kNone.
  uint32_t step(uint32_t node, unsigned char byte) const {
    if (node == kRoot) return first_[byte];
    const uint64_t* child = edges_.find(uint64_t{node} << 8 | byte);
    return child == nullptr ? kNone : static_cast<uint32_t>(*child);
  }
  uint32_t walk(uint32_t node, std::string_view bytes) const;
  // The value of the string that ends at `node`, or -1.
  int32_t value(uint32_t node) const { return values_[node]; }
  bool empty() const { return values_.size() == 1; }

 private:
  std::array<uint32_t, 256> first_;
  FlatMap edges_;
  std::vector<int32_t> values_ = {-1};
};

}  // namespace edgewise::tok
