// The rules of a grammar text as trees, and the way from there to a graph.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "grammar/bnf.h"
#include "grammar/graph.h"
#include "grammar/regex_pool.h"

namespace edgewise::grammar {

struct Expression {
  enum class Kind { kRegex, kRule, kSequence, kChoice, kRepeat };
  Kind kind;
  uint32_t id = 0;  // of the regex or the rule
  uint32_t min = 0;
  uint32_t max = 0;
  std::vector<Expression> parts{};
};

class EbnfRules {
 public:
  // Rule `start` is where texts begin.
  EbnfRules(RegexPool& pool, std::vector<Expression> rules, uint32_t start)
      : pool_(pool), rules_(std::move(rules)), start_(start) {}

  Graph graph();

 private:
  static constexpr int kMaxTerminalParts = 32;
  static constexpr uint32_t kMaxNullableCount = 64;

  void find_terminals();
  void join(Expression& expression);
  int parts_in(const Expression& expression) const;
  void find_nullable();
  bool nullable(const Expression& expression) const;
  void left_rules(const Expression& expression, std::vector<uint32_t>& out) const;
  bool is_left_recursive() const;
  NodeId node(Graph& graph, const Expression& expression, NodeId next) const;
  Graph by_productions();
  Production symbols(Bnf& bnf, const Expression& expression) const;

  RegexPool& pool_;
  std::vector<Expression> rules_;
  uint32_t start_;
  std::vector<bool> nullable_;  // by rule
};

}  // namespace edgewise::grammar
