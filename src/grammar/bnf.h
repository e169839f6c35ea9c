// Plain productions, for grammars that the parser cannot take as they are: it reads from the left and would never come
// to an end in expr ::= expr "+" term. The language stays the same, only the rules change.
#pragma once

#include <cstdint>
#include <vector>

#include "grammar/graph.h"
#include "grammar/regex_pool.h"

namespace edgewise::grammar {

struct Symbol {
  bool terminal;
  uint32_t id;  // a regex, or a rule
  auto operator<=>(const Symbol&) const = default;
};

using Production = std::vector<Symbol>;

class Bnf {
 public:
  // Throws Error(kUsage) when the grammar grows too large.
  uint32_t add_rule();
  void add(uint32_t rule, Production production);

  // Rule 0 as a graph without left recursion.
  Graph without_left_recursion(RegexPool& pool);

 private:
  static constexpr size_t kMaxRules = 4000;
  static constexpr size_t kMaxSymbols = 1000000;

  void split_nullable_terminals(RegexPool& pool);
  void shorten();
  bool remove_empty();
  void remove_units();
  std::vector<std::vector<bool>> left_reach() const;
  void turn_around(const std::vector<uint32_t>& rules);
  Graph graph(bool start_is_nullable) const;

  std::vector<std::vector<Production>> rules_;
  size_t symbols_ = 0;
};

}  // namespace edgewise::grammar
