// Cutting pieces at matches.
#pragma once

#include "text/pre_tokenizer.h"
#include "text/utf8.h"

namespace edgewise::tok {

// What becomes of the delimiters: "the-final--countdown" cut at '-' gives
enum class SplitBehavior {
  kRemoved,             // the, final, countdown
  kIsolated,            // the, -, final, -, -, countdown
  kMergedWithPrevious,  // the-, final-, -, countdown
  kMergedWithNext,      // the, -final, -, -countdown
  kContiguous,          // the, -, final, --, countdown
};

SplitBehavior read_behavior(const JsonView& view, SplitBehavior fallback);
SplitBehavior read_behavior(const JsonView& view);

// Rewrites `matches` into the parts that remain.
void apply_behavior(std::vector<Match>& matches, SplitBehavior behavior);

// Replaces every text piece by its parts: `cut(text, matches)` appends matches that cover the text.
template <typename Cut>
void split_pieces(Pieces& pieces, SplitBehavior behavior, const Cut& cut) {
  pieces.next.clear();
  for (const Piece& piece : pieces.list) {
    if (piece.id >= 0) {
      pieces.next.push_back(piece);
      continue;
    }
    pieces.matches.clear();
    cut(pieces.text.substr(piece.begin, piece.end - piece.begin), pieces.matches);
    apply_behavior(pieces.matches, behavior);
    for (const Match& part : pieces.matches) {
      if (part.begin == part.end) continue;
      pieces.next.push_back({piece.begin + part.begin, piece.begin + part.end, -1, piece.at_origin && part.begin == 0});
    }
  }
  pieces.list.swap(pieces.next);
}

// Appends a match for every character that `test` accepts, and the text between them.
template <typename Test>
void match_chars(std::string_view text, std::vector<Match>& matches, const Test& test) {
  size_t covered = 0;
  for (size_t pos = 0; pos < text.size();) {
    const size_t start = pos;
    if (!test(next_char(text, pos))) continue;
    if (covered < start) matches.push_back({covered, start, false});
    matches.push_back({start, pos, true});
    covered = pos;
  }
  if (covered < text.size()) matches.push_back({covered, text.size(), false});
}

}  // namespace edgewise::tok
