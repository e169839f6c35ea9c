#include "text/unicode_scripts.h"

#include <algorithm>
#include <cstdint>
#include <iterator>

namespace edgewise::tok {
namespace {

struct Range {
  uint32_t first;
  uint32_t last;
  uint8_t script;
};

constexpr Range kRanges[] = {
#include "text/unicode_scripts_table.inc"
};

}  // namespace

int sentencepiece_script(char32_t c) {
  const auto* range = std::upper_bound(std::begin(kRanges), std::end(kRanges), c,
                                       [](char32_t value, const Range& item) { return value < item.first; });
  if (range == std::begin(kRanges)) return kAnyScript;
  --range;
  return c <= range->last ? range->script : kAnyScript;
}

}  // namespace edgewise::tok
