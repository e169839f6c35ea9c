// Where a text stands in a grammar. A place is a lexer state (what is left of the terminal being read) together with a
// stack of what follows it; a position is the set of all places the text so far can be at. Stacks and positions are
// hash-consed: a position is a number, equal texts lead to equal numbers, and steps are remembered.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "grammar/graph.h"
#include "grammar/hash_index.h"
#include "grammar/regex_pool.h"

namespace edgewise::grammar {

using Stack = uint32_t;     // 0: the end of the text
using Position = uint32_t;  // 0: nowhere, the text is not in the language

struct Place {
  Regex state;  // never without a byte that can follow
  Stack stack;
  auto operator<=>(const Place&) const = default;
};

class Parser {
 public:
  static constexpr Position kNowhere = 0;

  // Both must outlive the parser; `graph` is pruned.
  Parser(RegexPool& pool, const Graph& graph) : pool_(pool), graph_(graph) {}

  // All of these throw Error(kUsage) when a limit is reached.
  Position start();
  Position step(Position position, uint8_t byte) {
    const Row* row = positions_[position].row.get();
    const Position known = row != nullptr ? (*row)[byte] : kUnknown;
    return known != kUnknown ? known : make_step(position, byte);
  }
  // Where a text stands that has just completed the terminal below `stack`.
  Position resume(Stack stack);
  // The position of some places.
  Position position_of(std::vector<Place> places, bool complete);

  bool is_complete(Position position) const { return positions_[position].complete; }  // the text may end here
  std::span<const Place> places(Position position) const {
    return {places_.data() + positions_[position].first, positions_[position].count};
  }
  ByteSet next_bytes(Position position);

  bool has_many_rows() const { return row_count_ > kManyRows; }
  void drop_rows();

 private:
  static constexpr Position kUnknown = ~uint32_t{0};
  static constexpr size_t kMaxPlaces = 4096;  // of one position
  static constexpr size_t kMaxStacks = size_t{1} << 22;
  static constexpr size_t kMaxPositions = size_t{1} << 22;
  static constexpr size_t kMaxStoredPlaces = size_t{1} << 24;
  static constexpr size_t kManyRows = size_t{1} << 14;  // of 1 KiB each
  static constexpr size_t kMaxRows = size_t{1} << 16;

  using Row = std::array<Position, 256>;
  struct StackEntry {
    NodeId node;
    uint32_t count;  // of a kRepeat: how often its body is done or under way
    Stack parent;
    bool operator==(const StackEntry&) const = default;
  };
  struct Record {
    uint32_t first = 0;
    uint32_t count = 0;
    bool complete = false;
    std::unique_ptr<Row> row{};
  };
  struct Closure;

  Position make_step(Position position, uint8_t byte);
  Row& make_row(Position position);
  Stack push(NodeId node, uint32_t count, Stack parent);
  void enter(const StackEntry& at, Closure& closure);
  void enter_repeat(const StackEntry& at, Closure& closure);
  Position close(StackEntry at);

  RegexPool& pool_;
  const Graph& graph_;
  std::vector<StackEntry> stacks_{{}};
  HashIndex stack_index_;
  std::vector<Position> resumed_{kUnknown};                // by stack
  std::vector<Record> positions_{std::vector<Record>(1)};  // with kNowhere
  HashIndex position_index_;
  std::vector<Place> places_;
  size_t row_count_ = 0;
};

}  // namespace edgewise::grammar
