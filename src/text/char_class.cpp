#include "text/char_class.h"

#include <algorithm>
#include <iterator>

namespace edgewise::tok::internal {
namespace {

struct Range {
  uint32_t first;
  uint32_t last;
  uint8_t flags;
};

constexpr Range kRanges[] = {
#include "text/char_classes_table.inc"
};

// Filled at program start: a few microseconds, and lookups need no guard.
std::array<uint8_t, kDirect> make_table() {
  std::array<uint8_t, kDirect> table{};
  for (const Range& range : kRanges) {
    for (uint32_t c = range.first; c <= range.last && c < kDirect; ++c) table[c] = range.flags;
  }
  return table;
}

}  // namespace

const std::array<uint8_t, kDirect> kCharFlags = make_table();

uint8_t find_char_flags(char32_t c) {
  const auto* range = std::upper_bound(std::begin(kRanges), std::end(kRanges), c,
                                       [](char32_t value, const Range& item) { return value < item.first; });
  if (range == std::begin(kRanges)) return 0;
  --range;
  return c <= range->last ? range->flags : 0;
}

}  // namespace edgewise::tok::internal
