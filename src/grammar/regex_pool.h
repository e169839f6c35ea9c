// Regular expressions over bytes as hash-consed nodes. A node is also a state of the automaton that recognizes it: what
// is left to match after some bytes (Brzozowski's derivative) is another node. So automata come into being as far as
// they are walked, counts as large as {0,100000} cost nothing until used, and intersection and complement are free.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/byte_set.h"
#include "grammar/hash_index.h"

namespace edgewise::grammar {

using Regex = uint32_t;  // a node of one pool

constexpr Regex kNothing = 0;   // matches no text at all: the dead state
constexpr Regex kEmpty = 1;     // matches the empty text
constexpr Regex kAnything = 2;  // matches every sequence of bytes
constexpr uint32_t kUnbounded = ~uint32_t{0};

enum class RegexKind : uint8_t { kNothing, kEmpty, kBytes, kConcat, kOr, kAnd, kNot, kRepeat, kMultiple };

struct RegexNode {
  RegexKind kind;
  bool nullable;   // matches the empty text
  bool doubtful;   // has an intersection or a complement in it, so that it may match nothing though it is not kNothing
  uint32_t a = 0;  // kBytes: the set; kConcat: left; kNot, kRepeat: operand; kOr, kAnd: first of the list; kMultiple: m
  uint32_t b = 0;  // kConcat: right; kOr, kAnd: length of the list; kMultiple: the remainder so far
  uint32_t min = 0;
  uint32_t max = 0;
  bool operator==(const RegexNode&) const = default;
};

class RegexPool {
 public:
  using Row = std::array<Regex, 256>;

  RegexPool();
  RegexPool(const RegexPool& other);  // without the rows of `other`, which are cheap to make again
  RegexPool& operator=(const RegexPool&) = delete;

  // Constructors of nodes; all simplify. They throw Error(kUsage) when the pool is full.
  Regex bytes(const ByteSet& set);
  Regex literal(std::string_view text);
  Regex concat(Regex left, Regex right);
  Regex concat(std::initializer_list<Regex> parts);
  Regex either(std::vector<Regex> options);
  Regex both(std::vector<Regex> parts);
  Regex complement(Regex operand);
  Regex repeat(Regex operand, uint32_t min, uint32_t max);
  Regex optional(Regex operand) { return repeat(operand, 0, 1); }
  Regex star(Regex operand) { return repeat(operand, 0, kUnbounded); }
  // Any of the texts, as a tree by their first bytes so that its states stay small.
  Regex any_of(std::vector<std::string> texts);
  // Decimal digits whose value is a multiple of `divisor`.
  Regex multiple_of(uint32_t divisor, uint32_t remainder = 0);

  const RegexNode& node(Regex regex) const { return nodes_[regex]; }
  bool nullable(Regex regex) const { return nodes_[regex].nullable; }
  const ByteSet& byte_set(const RegexNode& node) const { return sets_[node.a]; }
  std::span<const Regex> list(const RegexNode& node) const { return {lists_.data() + node.a, node.b}; }
  size_t size() const { return nodes_.size(); }

  // The states after each byte; kNothing where no text can follow. Valid until drop_rows().
  const Row& row(Regex state);
  // Rows are a cache: dropped when there are many, which only costs making them again.
  bool has_many_rows() const { return rows_.size() > kManyRows; }
  void drop_rows();
  Regex after(Regex state, uint8_t byte) { return row(state)[byte]; }
  // Whether some text matches. Throws Error(kUsage) when that takes too long to find out.
  bool matches_something(Regex regex);
  bool matches(Regex regex, std::string_view text);
  int live_bytes(Regex state);  // how many bytes may follow

  // An expression that agrees with `regex` on the first `limit` - 1 bytes: no count in it is above `limit`.
  Regex clamp_counts(Regex regex, uint32_t limit);

  // Bounds the work until the next call: an expression can be small and its states enormous.
  void start_work() { effort_ = 0; }

 private:
  static constexpr size_t kMaxNodes = size_t{1} << 20;
  static constexpr size_t kManyRows = size_t{1} << 14;  // of 1 KiB each
  static constexpr size_t kMaxRows = size_t{1} << 16;
  static constexpr size_t kMaxSearch = 20000;
  static constexpr size_t kMaxEffort = 10000000;  // nodes derived, well under a second

  Regex intern(RegexNode node);
  Regex intern_list(RegexKind kind, const std::vector<Regex>& items);
  uint64_t hash(const RegexNode& node) const;
  bool same(const RegexNode& left, const RegexNode& right) const;
  void merge_bytes(std::vector<Regex>& options);
  void merge_tails(std::vector<Regex>& options);

  Regex derivative(Regex regex, uint8_t byte);
  Regex derive_list(Regex regex, uint8_t byte);
  void collect_heads(Regex regex, std::vector<ByteSet>& heads) const;
  std::vector<ByteSet> classes(Regex regex) const;
  std::vector<std::pair<ByteSet, Regex>> raw_transitions(Regex regex);

  std::vector<RegexNode> nodes_;
  std::vector<Regex> lists_;
  std::vector<ByteSet> sets_;
  HashIndex index_;
  HashIndex set_index_;
  std::vector<uint32_t> row_of_;  // by node; 0 for none yet
  std::vector<std::unique_ptr<Row>> rows_;
  size_t effort_ = 0;
  std::vector<int8_t> alive_;  // by node, of doubtful ones: 1 matches something, -1 nothing, 0 not yet known
};

}  // namespace edgewise::grammar
