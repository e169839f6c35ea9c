// Derivatives: the automaton side of RegexPool.
#include <algorithm>

#include "base/error.h"
#include "grammar/regex_pool.h"

namespace edgewise::grammar {

// What is left to match after `byte`. Recursion is as deep as the expression is nested, which its parsers bound.
Regex RegexPool::derivative(Regex regex, uint8_t byte) {
  if (++effort_ > kMaxEffort) usage_error("the expression takes too long to be followed");
  const RegexNode node = nodes_[regex];
  switch (node.kind) {
    case RegexKind::kNothing:
    case RegexKind::kEmpty:
      return kNothing;
    case RegexKind::kBytes:
      return byte_set(node).has(byte) ? kEmpty : kNothing;
    case RegexKind::kConcat: {
      const Regex left = concat(derivative(node.a, byte), node.b);
      return nodes_[node.a].nullable ? either({left, derivative(node.b, byte)}) : left;
    }
    case RegexKind::kOr:
    case RegexKind::kAnd:
      return derive_list(regex, byte);
    case RegexKind::kNot:
      return complement(derivative(node.a, byte));
    case RegexKind::kRepeat: {
      const Regex once = derivative(node.a, byte);
      if (once == kNothing) return kNothing;
      const uint32_t max = node.max == kUnbounded ? kUnbounded : node.max - 1;
      return concat(once, repeat(node.a, node.min == 0 ? 0 : node.min - 1, max));
    }
    case RegexKind::kMultiple:
      if (byte < '0' || byte > '9') return kNothing;
      return multiple_of(node.a, (node.b * 10 + (byte - '0')) % node.a);
  }
  return kNothing;
}

Regex RegexPool::derive_list(Regex regex, uint8_t byte) {
  const bool is_or = nodes_[regex].kind == RegexKind::kOr;
  std::vector<Regex> parts;
  for (uint32_t i = 0; i < nodes_[regex].b; ++i) {  // the list may move while its parts are derived
    const Regex part = derivative(lists_[nodes_[regex].a + i], byte);
    if (part == kNothing && !is_or) return kNothing;
    if (part != kNothing) parts.push_back(part);
  }
  return is_or ? either(std::move(parts)) : both(std::move(parts));
}

// The byte sets that decide what the derivative is.
void RegexPool::collect_heads(Regex regex, std::vector<ByteSet>& heads) const {
  const RegexNode& node = nodes_[regex];
  switch (node.kind) {
    case RegexKind::kNothing:
    case RegexKind::kEmpty:
      return;
    case RegexKind::kBytes:
      heads.push_back(byte_set(node));
      return;
    case RegexKind::kConcat:
      collect_heads(node.a, heads);
      if (nodes_[node.a].nullable) collect_heads(node.b, heads);
      return;
    case RegexKind::kOr:
    case RegexKind::kAnd:
      for (const Regex part : list(node)) collect_heads(part, heads);
      return;
    case RegexKind::kNot:
    case RegexKind::kRepeat:
      collect_heads(node.a, heads);
      return;
    case RegexKind::kMultiple:
      for (uint8_t digit = '0'; digit <= '9'; ++digit) heads.push_back(ByteSet::range(digit, digit));
      return;
  }
}

// The coarsest partition of the bytes whose members all have the same derivative.
std::vector<ByteSet> RegexPool::classes(Regex regex) const {
  std::vector<ByteSet> heads;
  collect_heads(regex, heads);
  std::ranges::sort(heads);
  heads.erase(std::unique(heads.begin(), heads.end()), heads.end());
  std::vector<ByteSet> parts{ByteSet::all()};
  for (const ByteSet& head : heads) {
    const size_t count = parts.size();
    for (size_t i = 0; i < count; ++i) {
      const ByteSet inside = parts[i] & head;
      if (inside.empty() || inside == parts[i]) continue;
      parts[i] = parts[i] & ~head;
      parts.push_back(inside);
    }
  }
  return parts;
}

std::vector<std::pair<ByteSet, Regex>> RegexPool::raw_transitions(Regex regex) {
  std::vector<std::pair<ByteSet, Regex>> out;
  for (const ByteSet& part : classes(regex)) {
    const Regex next = derivative(regex, part.first());
    if (next != kNothing) out.emplace_back(part, next);
  }
  return out;
}

const RegexPool::Row& RegexPool::row(Regex state) {
  if (row_of_[state] != 0) return *rows_[row_of_[state]];
  if (rows_.size() >= kMaxRows) usage_error("the grammar needs too many automaton states: more than {}", kMaxRows);
  auto row = std::make_unique<Row>();
  row->fill(kNothing);
  for (const auto& [part, next] : raw_transitions(state)) {
    if (!matches_something(next)) continue;
    part.for_each([&, target = next](uint8_t byte) { (*row)[byte] = target; });
  }
  rows_.push_back(std::move(row));
  row_of_[state] = static_cast<uint32_t>(rows_.size() - 1);
  return *rows_.back();
}

void RegexPool::drop_rows() {
  std::ranges::fill(row_of_, 0);
  rows_.resize(1);
}

// Only intersections and complements can match nothing without being kNothing: those are searched, breadth first, for a
// state that surely matches something.
bool RegexPool::matches_something(Regex regex) {
  const auto known = [&](Regex state) {
    if (state == kNothing) return -1;
    return nodes_[state].nullable || !nodes_[state].doubtful ? 1 : int{alive_[state]};
  };
  if (const int answer = known(regex); answer != 0) return answer > 0;
  struct Visit {
    Regex state;
    uint32_t parent;
  };
  std::vector<Visit> queue{{regex, 0}};
  std::vector<Regex> seen{regex};
  const auto was_seen = [&](Regex state) {  // sorted, as it stays small
    const auto at = std::ranges::lower_bound(seen, state);
    if (at != seen.end() && *at == state) return true;
    seen.insert(at, state);
    return false;
  };
  for (uint32_t i = 0; i < queue.size(); ++i) {
    for (const auto& [part, next] : raw_transitions(queue[i].state)) {
      if (known(next) > 0) {
        for (uint32_t at = i;; at = queue[at].parent) {
          alive_[queue[at].state] = 1;
          if (at == 0) return true;
        }
      }
      if (known(next) < 0 || was_seen(next)) continue;
      if (queue.size() >= kMaxSearch) usage_error("the constraints on one value are too entangled to be decided");
      queue.push_back({next, i});
    }
  }
  for (const Regex state : seen) alive_[state] = -1;
  return false;
}

bool RegexPool::matches(Regex regex, std::string_view text) {
  for (const char c : text) regex = after(regex, static_cast<uint8_t>(c));
  return nullable(regex);
}

int RegexPool::live_bytes(Regex state) {
  const Row& bytes = row(state);
  return 256 - static_cast<int>(std::ranges::count(bytes, kNothing));
}

}  // namespace edgewise::grammar
