#include "grammar/regex_pool.h"

#include <algorithm>

#include "base/error.h"

namespace edgewise::grammar {

RegexPool::RegexPool() : rows_(1) {
  intern({.kind = RegexKind::kNothing, .nullable = false, .doubtful = false});
  intern({.kind = RegexKind::kEmpty, .nullable = true, .doubtful = false});
  const Regex any_byte = 3;
  intern({.kind = RegexKind::kRepeat, .nullable = true, .doubtful = false, .a = any_byte, .max = kUnbounded});
  check_internal(bytes(ByteSet::all()) == any_byte, "the first nodes of a regex pool");
}

RegexPool::RegexPool(const RegexPool& other)
    : nodes_(other.nodes_),
      lists_(other.lists_),
      sets_(other.sets_),
      index_(other.index_),
      set_index_(other.set_index_),
      row_of_(other.nodes_.size()),
      rows_(1),
      alive_(other.alive_) {}

uint64_t RegexPool::hash(const RegexNode& node) const {
  uint64_t value = hash_combine(static_cast<uint64_t>(node.kind) + 1, uint64_t{node.min} << 32 | node.max);
  if (node.kind != RegexKind::kOr && node.kind != RegexKind::kAnd) {
    return hash_combine(value, uint64_t{node.a} << 32 | node.b);
  }
  for (const Regex item : list(node)) value = hash_combine(value, item);
  return value;
}

bool RegexPool::same(const RegexNode& left, const RegexNode& right) const {
  if (left.kind != RegexKind::kOr && left.kind != RegexKind::kAnd) return left == right;
  return left.kind == right.kind && std::ranges::equal(list(left), list(right));
}

Regex RegexPool::intern(RegexNode node) {
  const uint64_t key = hash(node);
  const uint32_t found = index_.find(key, [&](uint32_t at) { return same(nodes_[at], node); });
  if (found != HashIndex::kNone) return found;
  if (nodes_.size() >= kMaxNodes) usage_error("the expression is too large: more than {} parts", kMaxNodes);
  nodes_.push_back(node);
  row_of_.push_back(0);
  alive_.push_back(0);
  const auto added = static_cast<Regex>(nodes_.size() - 1);
  index_.insert(key, added, [&](uint32_t at) { return hash(nodes_[at]); });
  return added;
}

// The list is at the end of lists_ while it is looked up, and taken off again when it was there before.
Regex RegexPool::intern_list(RegexKind kind, const std::vector<Regex>& items) {
  RegexNode node{.kind = kind, .nullable = kind == RegexKind::kAnd, .doubtful = kind == RegexKind::kAnd};
  node.a = static_cast<uint32_t>(lists_.size());
  node.b = static_cast<uint32_t>(items.size());
  lists_.insert(lists_.end(), items.begin(), items.end());
  for (const Regex item : items) {
    node.doubtful |= nodes_[item].doubtful;
    if (kind == RegexKind::kOr) node.nullable |= nodes_[item].nullable;
    if (kind == RegexKind::kAnd) node.nullable &= nodes_[item].nullable;
  }
  const size_t before = nodes_.size();
  const Regex result = intern(node);
  if (nodes_.size() == before) lists_.resize(node.a);
  return result;
}

Regex RegexPool::bytes(const ByteSet& set) {
  if (set.empty()) return kNothing;
  const auto hash_of = [](const ByteSet& value) {
    uint64_t key = 7;
    for (int i = 0; i < 4; ++i) key = hash_combine(key, value.word(i));
    return key;
  };
  uint32_t id = set_index_.find(hash_of(set), [&](uint32_t at) { return sets_[at] == set; });
  if (id == HashIndex::kNone) {
    id = static_cast<uint32_t>(sets_.size());
    sets_.push_back(set);
    set_index_.insert(hash_of(set), id, [&](uint32_t at) { return hash_of(sets_[at]); });
  }
  return intern({.kind = RegexKind::kBytes, .nullable = false, .doubtful = false, .a = id});
}

Regex RegexPool::literal(std::string_view text) {
  Regex result = kEmpty;
  for (size_t i = text.size(); i > 0; --i) {
    ByteSet set;
    set.add(static_cast<uint8_t>(text[i - 1]));
    result = concat(bytes(set), result);
  }
  return result;
}

// Chains lean to the right, so that a derivative has to look at their first part only.
Regex RegexPool::concat(Regex left, Regex right) {
  if (left == kNothing || right == kNothing) return kNothing;
  if (left == kEmpty) return right;
  if (right == kEmpty) return left;
  std::vector<Regex> chain;
  while (nodes_[left].kind == RegexKind::kConcat) {
    chain.push_back(nodes_[left].a);
    left = nodes_[left].b;
  }
  chain.push_back(left);
  for (size_t i = chain.size(); i > 0; --i) {
    const RegexNode& head = nodes_[chain[i - 1]];
    const RegexNode& tail = nodes_[right];
    right = intern({.kind = RegexKind::kConcat,
                    .nullable = head.nullable && tail.nullable,
                    .doubtful = head.doubtful || tail.doubtful,
                    .a = chain[i - 1],
                    .b = right});
  }
  return right;
}

Regex RegexPool::concat(std::initializer_list<Regex> parts) {
  Regex result = kEmpty;
  for (auto part = std::rbegin(parts); part != std::rend(parts); ++part) result = concat(*part, result);
  return result;
}

// All byte sets among the options become one.
void RegexPool::merge_bytes(std::vector<Regex>& options) {
  ByteSet all;
  int count = 0;
  for (const Regex option : options) {
    if (nodes_[option].kind != RegexKind::kBytes) continue;
    all = all | byte_set(nodes_[option]);
    ++count;
  }
  if (count < 2) return;
  std::erase_if(options, [&](Regex option) { return nodes_[option].kind == RegexKind::kBytes; });
  options.push_back(bytes(all));
}

// Byte sets before the same rest become one: [a]x|[b]x is [ab]x.
void RegexPool::merge_tails(std::vector<Regex>& options) {
  const auto joins = [&](Regex option) {
    const RegexNode& node = nodes_[option];
    return node.kind == RegexKind::kConcat && nodes_[node.a].kind == RegexKind::kBytes;
  };
  const auto middle = std::stable_partition(options.begin(), options.end(), [&](Regex o) { return !joins(o); });
  if (options.end() - middle < 2) return;
  std::vector<Regex> chains(middle, options.end());
  options.erase(middle, options.end());
  std::ranges::sort(chains, {}, [&](Regex option) { return nodes_[option].b; });
  for (size_t i = 0; i < chains.size();) {
    const Regex tail = nodes_[chains[i]].b;
    ByteSet set;
    size_t end = i;
    for (; end < chains.size() && nodes_[chains[end]].b == tail; ++end) {
      set = set | byte_set(nodes_[nodes_[chains[end]].a]);
    }
    options.push_back(end == i + 1 ? chains[i] : concat(bytes(set), tail));
    i = end;
  }
}

Regex RegexPool::either(std::vector<Regex> options) {
  std::vector<Regex> flat;
  for (const Regex option : options) {
    const RegexNode& node = nodes_[option];
    if (option == kAnything) return kAnything;
    if (node.kind == RegexKind::kOr) {
      flat.insert(flat.end(), list(node).begin(), list(node).end());
    } else if (option != kNothing) {
      flat.push_back(option);
    }
  }
  if (flat.size() > 1) {
    merge_bytes(flat);
    merge_tails(flat);
    std::ranges::sort(flat);
    flat.erase(std::unique(flat.begin(), flat.end()), flat.end());
    const bool has_nullable = std::ranges::any_of(flat, [&](Regex o) { return o != kEmpty && nodes_[o].nullable; });
    if (has_nullable) std::erase(flat, kEmpty);
  }
  if (flat.empty()) return kNothing;
  return flat.size() == 1 ? flat[0] : intern_list(RegexKind::kOr, flat);
}

Regex RegexPool::both(std::vector<Regex> parts) {
  std::vector<Regex> flat;
  for (const Regex part : parts) {
    const RegexNode& node = nodes_[part];
    if (part == kNothing) return kNothing;
    if (node.kind == RegexKind::kAnd) {
      flat.insert(flat.end(), list(node).begin(), list(node).end());
    } else if (part != kAnything) {
      flat.push_back(part);
    }
  }
  std::ranges::sort(flat);
  flat.erase(std::unique(flat.begin(), flat.end()), flat.end());
  if (flat.empty()) return kAnything;
  if (flat.size() == 1) return flat[0];
  if (std::ranges::binary_search(flat, kEmpty)) {
    return std::ranges::all_of(flat, [&](Regex part) { return nodes_[part].nullable; }) ? kEmpty : kNothing;
  }
  return intern_list(RegexKind::kAnd, flat);
}

Regex RegexPool::complement(Regex operand) {
  if (operand == kNothing) return kAnything;
  if (operand == kAnything) return kNothing;
  const RegexNode& node = nodes_[operand];
  if (node.kind == RegexKind::kNot) return node.a;
  return intern({.kind = RegexKind::kNot, .nullable = !node.nullable, .doubtful = true, .a = operand});
}

Regex RegexPool::repeat(Regex operand, uint32_t min, uint32_t max) {
  if (max == 0 || operand == kEmpty) return kEmpty;
  if (operand == kNothing) return min == 0 ? kEmpty : kNothing;
  if (min == 1 && max == 1) return operand;
  const RegexNode& node = nodes_[operand];
  if (node.nullable) min = 0;
  const bool is_star = node.kind == RegexKind::kRepeat && node.min == 0 && node.max == kUnbounded;
  if (is_star) return operand;
  return intern({.kind = RegexKind::kRepeat,
                 .nullable = min == 0,
                 .doubtful = node.doubtful,
                 .a = operand,
                 .min = min,
                 .max = max});
}

// Under an intersection a count decides whether anything matches at all, so those are left alone.
Regex RegexPool::clamp_counts(Regex regex, uint32_t limit) {
  const RegexNode node = nodes_[regex];
  if (node.kind == RegexKind::kRepeat) {
    const uint32_t max = node.max == kUnbounded ? kUnbounded : std::min(node.max, limit);
    return repeat(clamp_counts(node.a, limit), std::min(node.min, limit), max);
  }
  if (node.kind == RegexKind::kOr) {
    std::vector<Regex> options(list(node).begin(), list(node).end());
    for (Regex& option : options) option = clamp_counts(option, limit);
    return either(std::move(options));
  }
  if (node.kind != RegexKind::kConcat) return regex;
  std::vector<Regex> chain;
  for (; nodes_[regex].kind == RegexKind::kConcat; regex = nodes_[regex].b) chain.push_back(nodes_[regex].a);
  Regex result = clamp_counts(regex, limit);
  for (size_t i = chain.size(); i > 0; --i) result = concat(clamp_counts(chain[i - 1], limit), result);
  return result;
}

Regex RegexPool::any_of(std::vector<std::string> texts) {
  std::ranges::sort(texts);
  texts.erase(std::unique(texts.begin(), texts.end()), texts.end());
  // Texts [begin, end) agree in their first `depth` bytes.
  const auto build = [&](const auto& self, size_t begin, size_t end, size_t depth) -> Regex {
    if (end - begin == 1) return literal(std::string_view(texts[begin]).substr(depth));
    std::vector<Regex> options;
    if (texts[begin].size() == depth) {
      options.push_back(kEmpty);
      ++begin;
    }
    while (begin < end) {
      size_t same = depth + 1;  // all texts with this first byte agree at least so far
      size_t stop = begin;
      while (stop < end && texts[stop][depth] == texts[begin][depth]) ++stop;
      const auto agree = [&](size_t at) {
        return texts[begin].size() > at && texts[stop - 1].size() > at && texts[begin][at] == texts[stop - 1][at];
      };
      while (stop - begin > 1 && agree(same)) ++same;
      const std::string_view head = std::string_view(texts[begin]).substr(depth, same - depth);
      options.push_back(concat(literal(head), self(self, begin, stop, same)));
      begin = stop;
    }
    return either(std::move(options));
  };
  return texts.empty() ? kNothing : build(build, 0, texts.size(), 0);
}

Regex RegexPool::multiple_of(uint32_t divisor, uint32_t remainder) {
  return intern(
      {.kind = RegexKind::kMultiple, .nullable = remainder == 0, .doubtful = false, .a = divisor, .b = remainder});
}

}  // namespace edgewise::grammar
