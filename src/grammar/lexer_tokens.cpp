#include "grammar/lexer_tokens.h"

#include <algorithm>

namespace edgewise::grammar {

LexerTokens scan_tokens(RegexPool& pool, const TokenTrie& trie, Regex state) {
  LexerTokens out;
  out.inside.resize(trie.mask_words());
  std::vector<const RegexPool::Row*> path(trie.max_depth() + 1);
  path[0] = &pool.row(state);
  const auto nodes = trie.nodes();
  for (uint32_t i = 0; i < nodes.size();) {
    const TokenTrie::Node& node = nodes[i];
    const Regex next = (*path[node.depth - 1])[node.byte];
    if (next == kNothing) {
      i = node.subtree_end;
      continue;
    }
    if (node.token >= 0) set_bit(out.inside, node.token);
    if (node.subtree_end > ++i) {
      path[node.depth] = &pool.row(next);
      if (pool.nullable(next)) out.exits.push_back(i - 1);
    }
  }
  return out;
}

LexerTokens scan_tokens(RegexPool& pool, const TokenTrie& trie, Regex state, Regex base,
                        const LexerTokens& base_tokens) {
  LexerTokens out{base_tokens.inside, {}};
  std::vector<const RegexPool::Row*> path(trie.max_depth() + 1);
  std::vector<const RegexPool::Row*> base_path(trie.max_depth() + 1);
  path[0] = &pool.row(state);
  base_path[0] = &pool.row(base);
  const auto nodes = trie.nodes();
  for (uint32_t i = 0; i < nodes.size();) {
    const TokenTrie::Node& node = nodes[i];
    const Regex next = (*path[node.depth - 1])[node.byte];
    const Regex base_next = (*base_path[node.depth - 1])[node.byte];
    if (next == base_next) {  // from here on they agree
      const auto first = std::ranges::lower_bound(base_tokens.exits, i);
      const auto last = std::lower_bound(first, base_tokens.exits.end(), node.subtree_end);
      if (next != kNothing) out.exits.insert(out.exits.end(), first, last);
      i = node.subtree_end;
    } else if (next == kNothing) {
      for (; i < node.subtree_end; ++i) {
        if (nodes[i].token >= 0) clear_bit(out.inside, nodes[i].token);
      }
    } else if (node.subtree_end > ++i) {
      path[node.depth] = &pool.row(next);
      base_path[node.depth] = &pool.row(base_next);
      if (pool.nullable(next)) out.exits.push_back(i - 1);
    }
  }
  return out;
}

LexerTokens scan_long_tokens(RegexPool& pool, const TokenTrie& trie, Regex state, const LexerTokens& base_tokens) {
  LexerTokens out = base_tokens;
  std::erase_if(out.exits, [&](uint32_t node) { return trie.nodes()[node].depth > TokenTrie::kLong; });
  const auto nodes = trie.long_nodes();
  for (const auto& [node, index] : nodes) {
    if (node.token >= 0) clear_bit(out.inside, node.token);
  }
  std::vector<Regex> path(trie.max_depth() + 1);
  path[0] = state;
  for (uint32_t i = 0; i < nodes.size();) {
    const auto& [node, index] = nodes[i];
    const Regex next = pool.after(path[node.depth - 1], node.byte);
    if (next == kNothing) {
      i = node.subtree_end;
      continue;
    }
    path[node.depth] = next;
    if (node.token >= 0) set_bit(out.inside, node.token);
    const bool goes_on = trie.nodes()[index].subtree_end > index + 1;
    if (goes_on && node.depth > TokenTrie::kLong && pool.nullable(next)) out.exits.push_back(index);
    ++i;
  }
  return out;
}

StringTokens::StringTokens(RegexPool& pool, const TokenTrie& trie, Regex unit, Regex quote)
    : unit_(unit), quote_(quote), unbounded_(pool.concat(pool.star(unit), quote)) {
  unbounded_tokens_ = scan_tokens(pool, trie, unbounded_);
  scan(pool, trie);
}

void StringTokens::scan(RegexPool& pool, const TokenTrie& trie) {
  open_.resize(trie.mask_words());
  short_.assign(kMasks, std::vector<uint64_t>(trie.mask_words()));
  std::vector<std::pair<Regex, uint32_t>> path(trie.max_depth() + 1);  // the state, and characters begun so far
  path[0] = {unbounded_, 0};
  const auto nodes = trie.nodes();
  for (uint32_t i = 0; i < nodes.size();) {
    const TokenTrie::Node& node = nodes[i];
    const auto [state, units] = path[node.depth - 1];
    const Regex next = pool.after(state, node.byte);
    if (next == kNothing) {
      i = node.subtree_end;
      continue;
    }
    const bool closed = pool.nullable(next);
    const uint32_t now = units + (state == unbounded_ && !closed ? 1 : 0);
    path[node.depth] = {next, now};
    if (closed) {
      if (node.token >= 0) closers_.push_back({node.token, now});
      if (node.subtree_end > i + 1) exits_.push_back({static_cast<int32_t>(i), now});
      i = node.subtree_end;
      continue;
    }
    if (node.token >= 0) {
      set_bit(open_, node.token);
      for (uint32_t n = now; n < kMasks; ++n) set_bit(short_[n], node.token);
      if (now >= kMasks) long_.push_back({node.token, now});
    }
    ++i;
  }
}

bool StringTokens::covers(const RegexPool& pool, Regex state, uint32_t& min, uint32_t& max) const {
  const RegexNode& node = pool.node(state);
  if (node.kind != RegexKind::kConcat || node.b != quote_) return false;
  const RegexNode& head = pool.node(node.a);
  const bool once = node.a == unit_;
  if (!once && (head.kind != RegexKind::kRepeat || head.a != unit_)) return false;
  min = once ? 1 : head.min;
  max = once ? 1 : head.max;
  return true;
}

void StringTokens::add_inside(uint32_t min, uint32_t max, std::span<uint64_t> bits) const {
  const std::vector<uint64_t>& open = max < kMasks ? short_[max] : open_;
  // What is too long was possibly allowed before, by another place.
  std::vector<int32_t> too_long;
  if (max >= kMasks && max != kUnbounded) {
    for (const Counted& token : long_) {
      const bool before = bits[token.id >> 6] >> (token.id & 63) & 1;
      if (token.units > max && !before) too_long.push_back(token.id);
    }
  }
  for (size_t word = 0; word < open.size(); ++word) bits[word] |= open[word];
  for (const int32_t token : too_long) clear_bit(bits, token);
  for (const Counted& token : closers_) {
    if (min <= token.units && token.units <= max) set_bit(bits, token.id);
  }
}

}  // namespace edgewise::grammar
