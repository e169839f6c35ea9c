#include "grammar/parser.h"

#include <algorithm>
#include <unordered_set>

#include "base/error.h"

namespace edgewise::grammar {

// The places reached without reading a byte, as they are collected.
struct Parser::Closure {
  std::vector<StackEntry> open;
  std::unordered_set<uint64_t> seen;
  std::vector<Place> places;
  bool complete = false;
};

Position Parser::start() { return close({graph_.start(0), 0, 0}); }

Stack Parser::push(NodeId node, uint32_t count, Stack parent) {
  if (node == Graph::kReturn) return parent;  // a tail call
  const StackEntry entry{node, count, parent};
  const auto hash_of = [](const StackEntry& e) { return hash_combine(hash_combine(e.node, e.count), e.parent); };
  const uint32_t found = stack_index_.find(hash_of(entry), [&](uint32_t at) { return stacks_[at] == entry; });
  if (found != HashIndex::kNone) return found;
  if (stacks_.size() >= kMaxStacks) usage_error("the grammar's nesting needs too much memory");
  stacks_.push_back(entry);
  resumed_.push_back(kUnknown);
  const auto added = static_cast<Stack>(stacks_.size() - 1);
  stack_index_.insert(hash_of(entry), added, [&](uint32_t at) { return hash_of(stacks_[at]); });
  return added;
}

void Parser::enter(const StackEntry& at, Closure& closure) {
  const Node& node = graph_.node(at.node);
  switch (node.kind) {
    case NodeKind::kReturn:
      if (at.parent == 0) {
        closure.complete = true;
      } else {
        closure.open.push_back(stacks_[at.parent]);
      }
      return;
    case NodeKind::kTerminal: {
      closure.places.push_back({node.value, push(node.next, 0, at.parent)});
      if (pool_.nullable(node.value)) closure.open.push_back({node.next, 0, at.parent});
      return;
    }
    case NodeKind::kCall:
      closure.open.push_back({graph_.start(node.value), 0, push(node.next, 0, at.parent)});
      return;
    case NodeKind::kSplit:
      for (const NodeId option : node.options) closure.open.push_back({option, 0, at.parent});
      return;
    case NodeKind::kRepeat:
      enter_repeat(at, closure);
      return;
  }
}

// `at.count` times are done. Without an upper limit counts beyond the lower one are all the same.
void Parser::enter_repeat(const StackEntry& at, Closure& closure) {
  const Node& node = graph_.node(at.node);
  if (at.count >= node.min) closure.open.push_back({node.next, 0, at.parent});
  if (at.count >= node.max) return;
  const uint32_t count = node.max == kUnbounded ? std::min(at.count + 1, node.min) : at.count + 1;
  closure.open.push_back({node.value, 0, push(at.node, count, at.parent)});
}

Position Parser::close(StackEntry at) {
  Closure closure;
  closure.open.push_back(at);
  while (!closure.open.empty()) {
    const StackEntry next = closure.open.back();
    closure.open.pop_back();
    const bool repeat = graph_.node(next.node).kind == NodeKind::kRepeat;
    const uint64_t key =
        repeat ? ~uint64_t{push(next.node, next.count, next.parent)} : uint64_t{next.node} << 32 | next.parent;
    if (!closure.seen.insert(key).second) continue;
    if (closure.seen.size() > kMaxPlaces * 8) usage_error("the grammar is too ambiguous");
    enter(next, closure);
  }
  return position_of(std::move(closure.places), closure.complete);
}

Position Parser::resume(Stack stack) {
  if (resumed_[stack] != kUnknown) return resumed_[stack];
  const Position position = stack == 0 ? position_of({}, true) : close(stacks_[stack]);
  resumed_[stack] = position;
  return position;
}

Position Parser::position_of(std::vector<Place> places, bool complete) {
  std::erase_if(places, [](const Place& place) { return place.state == kEmpty; });
  std::ranges::sort(places);
  places.erase(std::unique(places.begin(), places.end()), places.end());
  if (places.empty() && !complete) return kNowhere;
  const auto hash_of = [](std::span<const Place> list, bool flag) {
    uint64_t hash = flag ? 3 : 5;
    for (const Place& place : list) hash = hash_combine(hash, uint64_t{place.state} << 32 | place.stack);
    return hash;
  };
  const uint64_t hash = hash_of(places, complete);
  const uint32_t found = position_index_.find(hash, [&](uint32_t at) {
    return positions_[at].complete == complete && std::ranges::equal(this->places(at), places);
  });
  if (found != HashIndex::kNone) return found;
  if (places.size() > kMaxPlaces) usage_error("the grammar is too ambiguous");
  if (positions_.size() >= kMaxPositions || places_.size() + places.size() > kMaxStoredPlaces) {
    usage_error("the text needs too much memory to be followed through the grammar");
  }
  Record record{.first = static_cast<uint32_t>(places_.size()), .count = static_cast<uint32_t>(places.size())};
  record.complete = complete;
  places_.insert(places_.end(), places.begin(), places.end());
  positions_.push_back(std::move(record));
  const auto added = static_cast<Position>(positions_.size() - 1);
  position_index_.insert(hash, added, [&](uint32_t at) { return hash_of(this->places(at), positions_[at].complete); });
  return added;
}

// Bytes that no place can read are known at once to lead nowhere.
Parser::Row& Parser::make_row(Position position) {
  if (row_count_ >= kMaxRows) usage_error("the grammar needs too many parser states");
  auto row = std::make_unique<Row>();
  row->fill(kNowhere);
  for (uint32_t i = 0; i < positions_[position].count; ++i) {
    const RegexPool::Row& lexer = pool_.row(places_[positions_[position].first + i].state);
    for (int byte = 0; byte < 256; ++byte) (*row)[byte] |= lexer[byte] != kNothing ? kUnknown : 0;
  }
  ++row_count_;
  positions_[position].row = std::move(row);
  return *positions_[position].row;
}

Position Parser::make_step(Position position, uint8_t byte) {
  Row& row = positions_[position].row != nullptr ? *positions_[position].row : make_row(position);
  if (row[byte] != kUnknown) return row[byte];
  std::vector<Place> next;
  bool complete = false;
  for (uint32_t i = 0; i < positions_[position].count; ++i) {
    const Place place = places_[positions_[position].first + i];
    const Regex state = pool_.after(place.state, byte);
    if (state == kNothing) continue;
    next.push_back({state, place.stack});
    if (!pool_.nullable(state)) continue;
    const Position after = resume(place.stack);
    complete |= is_complete(after);
    next.insert(next.end(), places(after).begin(), places(after).end());
  }
  const Position result = position_of(std::move(next), complete);
  row[byte] = result;
  return result;
}

ByteSet Parser::next_bytes(Position position) {
  ByteSet out;
  for (uint32_t i = 0; i < positions_[position].count; ++i) {
    const RegexPool::Row& lexer = pool_.row(places_[positions_[position].first + i].state);
    for (int byte = 0; byte < 256; ++byte) {
      if (lexer[byte] != kNothing) out.add(static_cast<uint8_t>(byte));
    }
  }
  return out;
}

void Parser::drop_rows() {
  for (Record& record : positions_) record.row.reset();
  row_count_ = 0;
}

}  // namespace edgewise::grammar
