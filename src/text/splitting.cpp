#include "text/splitting.h"

#include <algorithm>

#include "base/error.h"

namespace edgewise::tok {
namespace {

// Joins parts with their predecessor in `matches` wherever `joins(part, whether the predecessor matched)`.
template <typename Joins>
void join_parts(std::vector<Match>& matches, const Joins& joins) {
  size_t count = 0;
  bool previous = false;
  for (const Match match : matches) {  // a copy: the place may be overwritten
    if (count > 0 && joins(match.matched, previous)) {
      matches[count - 1].begin = std::min(matches[count - 1].begin, match.begin);
      matches[count - 1].end = std::max(matches[count - 1].end, match.end);
    } else {
      matches[count++] = {match.begin, match.end, false};
    }
    previous = match.matched;
  }
  matches.resize(count);
}

}  // namespace

SplitBehavior read_behavior(const JsonView& view) {
  const std::string name = view.string("behavior");
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  unsupported("{}: behavior: unknown split behavior \"{}\"", view.where(), name);
}

SplitBehavior read_behavior(const JsonView& view, SplitBehavior fallback) {
  return view.has("behavior") ? read_behavior(view) : fallback;
}

void apply_behavior(std::vector<Match>& matches, SplitBehavior behavior) {
  const auto starts_match = [](bool matched, bool previous) { return matched && !previous; };
  switch (behavior) {
    case SplitBehavior::kIsolated:
      return;
    case SplitBehavior::kRemoved:
      std::erase_if(matches, [](const Match& match) { return match.matched; });
      return;
    case SplitBehavior::kContiguous:
      join_parts(matches, [](bool matched, bool previous) { return matched == previous; });
      return;
    case SplitBehavior::kMergedWithPrevious:
      join_parts(matches, starts_match);
      return;
    case SplitBehavior::kMergedWithNext:
      std::reverse(matches.begin(), matches.end());
      join_parts(matches, starts_match);
      std::reverse(matches.begin(), matches.end());
      return;
  }
}

}  // namespace edgewise::tok
