#include "grammar/masks.h"

#include <algorithm>

namespace edgewise::grammar {

MaskMaker::MaskMaker(RegexPool& pool, Parser& parser, std::shared_ptr<const TokenTrie> trie, SharedStrings strings)
    : pool_(pool),
      parser_(parser),
      trie_(std::move(trie)),
      strings_(std::move(strings)),
      path_(trie_->max_depth() + 1) {}

void MaskMaker::fill(Position position, std::span<uint64_t> bits) {
  if (const auto known = masks_.find(position); known != masks_.end()) {
    std::ranges::copy(known->second, bits.begin());
    return;
  }
  compute(position, bits);
  if (walked_ < kWorthRemembering) return;
  if (masks_.size() >= remembered_limit()) masks_.clear();
  masks_.emplace(position, std::vector<uint64_t>(bits.begin(), bits.end()));
}

// Places whose state allows many bytes take the tokens that end within their terminal from a table and walk only those
// that go on behind it. The others are walked together.
void MaskMaker::compute(Position position, std::span<uint64_t> bits) {
  walked_ = 0;
  std::ranges::fill(bits, 0);
  narrow_.clear();
  const std::vector<Place> places(parser_.places(position).begin(), parser_.places(position).end());
  for (const Place& place : places) {
    if (add_string(place, bits)) continue;
    if (pool_.live_bytes(place.state) >= kWide) {
      add_wide(place, bits);
    } else {
      narrow_.push_back(place);
    }
  }
  if (!narrow_.empty()) {
    const bool all = narrow_.size() == places.size();
    walk(kWholeTree, all ? position : parser_.position_of(narrow_, false), bits);
  }
  for (const auto& [token, twin] : trie_->duplicates()) {
    if (bits[token >> 6] >> (token & 63) & 1) set_bit(bits, twin);
  }
}

bool MaskMaker::add_string(const Place& place, std::span<uint64_t> bits) {
  for (const auto& strings : strings_) {
    uint32_t min = 0;
    uint32_t max = 0;
    if (!strings->covers(pool_, place.state, min, max)) continue;
    strings->add_inside(min, max, bits);
    const Position behind = parser_.resume(place.stack);
    strings->for_each_exit(min, max, [&](uint32_t node) { walk(node, behind, bits); });
    return true;
  }
  return false;
}

void MaskMaker::add_wide(const Place& place, std::span<uint64_t> bits) {
  const LexerTokens& tokens = tokens_of(place.state);
  for (size_t word = 0; word < bits.size(); ++word) bits[word] |= tokens.inside[word];
  const Position behind = parser_.resume(place.stack);
  if (parser_.places(behind).empty()) return;
  for (const uint32_t node : tokens.exits) walk(node, behind, bits);
}

const LexerTokens& MaskMaker::tokens_of(Regex state) {
  if (const auto known = lexer_tokens_.find(state); known != lexer_tokens_.end()) return known->second;
  LexerTokens tokens = scan(state);
  if (lexer_tokens_.size() >= remembered_limit()) lexer_tokens_.clear();
  return lexer_tokens_.emplace(state, std::move(tokens)).first->second;
}

LexerTokens MaskMaker::scan(Regex state) {
  const RegexNode& node = pool_.node(state);
  if (node.kind == RegexKind::kAnd) {
    for (const auto& strings : strings_) {
      if (std::ranges::count(pool_.list(node), strings->unbounded()) == 0) continue;
      return scan_tokens(pool_, *trie_, state, strings->unbounded(), strings->unbounded_tokens());
    }
  }
  // A token of 16 bytes cannot tell 17 repetitions from more: all states with larger counts share a walk.
  const Regex clamped = pool_.clamp_counts(state, TokenTrie::kLong + 1);
  if (clamped == state) return scan_tokens(pool_, *trie_, state);
  const LexerTokens base = tokens_of(clamped);
  return scan_long_tokens(pool_, *trie_, state, base);
}

void MaskMaker::walk(uint32_t root, Position from, std::span<uint64_t> bits) {
  if (parser_.places(from).empty()) return;
  const auto nodes = trie_->nodes();
  const bool whole = root == kWholeTree;
  const uint32_t end = whole ? static_cast<uint32_t>(nodes.size()) : nodes[root].subtree_end;
  path_[whole ? 0 : nodes[root].depth] = from;
  for (uint32_t i = whole ? 0 : root + 1; i < end;) {
    const TokenTrie::Node& node = nodes[i];
    const Position next = parser_.step(path_[node.depth - 1], node.byte);
    ++walked_;
    if (next == Parser::kNowhere) {
      i = node.subtree_end;
      continue;
    }
    path_[node.depth] = next;
    if (node.token >= 0) set_bit(bits, node.token);
    ++i;
  }
}

}  // namespace edgewise::grammar
