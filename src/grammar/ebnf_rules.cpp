#include "grammar/ebnf_rules.h"

#include <algorithm>

#include "base/error.h"

namespace edgewise::grammar {

using Kind = Expression::Kind;

// Rules without recursion that are small become terminals: most tokens are then decided by the lexer alone. Large ones
// stay rules, since their inner states would be different ones wherever they are used.
void EbnfRules::find_terminals() {
  constexpr int kPasses = 50;  // what is terminal at a greater depth stays a rule
  bool changed = true;
  for (int pass = 0; changed && pass < kPasses; ++pass) {
    changed = false;
    for (Expression& rule : rules_) {
      if (rule.kind == Kind::kRegex) continue;
      const int before = parts_in(rule);
      join(rule);
      changed |= rule.kind == Kind::kRegex || parts_in(rule) < before;
    }
  }
}

int EbnfRules::parts_in(const Expression& expression) const {
  int count = 1;
  for (const Expression& part : expression.parts) count += parts_in(part);
  return count;
}

// Puts the regexes of small terminal rules in place of calls, and joins neighbours.
void EbnfRules::join(Expression& expression) {
  if (expression.kind == Kind::kRule && rules_[expression.id].kind == Kind::kRegex) {
    expression = {.kind = Kind::kRegex, .id = rules_[expression.id].id};
    return;
  }
  if (expression.kind == Kind::kRegex || expression.kind == Kind::kRule) return;
  for (Expression& part : expression.parts) join(part);
  const bool all = std::ranges::all_of(expression.parts, [](const Expression& e) { return e.kind == Kind::kRegex; });
  if (!all || parts_in(expression) > kMaxTerminalParts) return;
  std::vector<Regex> regexes;
  for (const Expression& part : expression.parts) regexes.push_back(part.id);
  Regex joined = kEmpty;
  if (expression.kind == Kind::kChoice) {
    joined = pool_.either(std::move(regexes));
  } else if (expression.kind == Kind::kRepeat) {
    joined = pool_.repeat(regexes[0], expression.min, expression.max);
  } else {
    for (auto regex = regexes.rbegin(); regex != regexes.rend(); ++regex) joined = pool_.concat(*regex, joined);
  }
  expression = {.kind = Kind::kRegex, .id = joined};
}

bool EbnfRules::nullable(const Expression& expression) const {
  const auto part_is = [&](const Expression& part) { return nullable(part); };
  switch (expression.kind) {
    case Kind::kRegex:
      return pool_.nullable(expression.id);
    case Kind::kRule:
      return nullable_[expression.id];
    case Kind::kSequence:
      return std::ranges::all_of(expression.parts, part_is);
    case Kind::kChoice:
      return std::ranges::any_of(expression.parts, part_is);
    case Kind::kRepeat:
      return expression.min == 0 || nullable(expression.parts[0]);
  }
  return false;
}

void EbnfRules::find_nullable() {
  nullable_.assign(rules_.size(), false);
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = 0; i < rules_.size(); ++i) {
      if (nullable_[i] || !nullable(rules_[i])) continue;
      nullable_[i] = changed = true;
    }
  }
}

// The rules that may be entered before anything is read.
void EbnfRules::left_rules(const Expression& expression, std::vector<uint32_t>& out) const {
  if (expression.kind == Kind::kRule) out.push_back(expression.id);
  for (const Expression& part : expression.parts) {
    left_rules(part, out);
    if (expression.kind == Kind::kSequence && !nullable(part)) return;
  }
  // A repeated body that can be empty comes again before anything is read; it was listed already.
}

bool EbnfRules::is_left_recursive() const {
  std::vector<std::vector<uint32_t>> edges(rules_.size());
  for (size_t i = 0; i < rules_.size(); ++i) left_rules(rules_[i], edges[i]);
  enum : uint8_t { kNew, kOpen, kDone };
  std::vector<uint8_t> state(rules_.size(), kNew);
  for (uint32_t root = 0; root < rules_.size(); ++root) {
    std::vector<std::pair<uint32_t, size_t>> path;  // a rule and its next edge
    if (state[root] == kNew) path.emplace_back(root, 0);
    while (!path.empty()) {
      auto& [rule, edge] = path.back();
      state[rule] = kOpen;
      if (edge == edges[rule].size()) {
        state[rule] = kDone;
        path.pop_back();
        continue;
      }
      const uint32_t next = edges[rule][edge++];
      if (state[next] == kOpen) return true;
      if (state[next] == kNew) path.emplace_back(next, 0);
    }
  }
  return false;
}

NodeId EbnfRules::node(Graph& graph, const Expression& expression, NodeId next) const {
  switch (expression.kind) {
    case Kind::kRegex:
      return graph.terminal(expression.id, next);
    case Kind::kRule:
      return graph.call(expression.id + 1, next);
    case Kind::kSequence:
      for (auto part = expression.parts.rbegin(); part != expression.parts.rend(); ++part)
        next = node(graph, *part, next);
      return next;
    case Kind::kChoice: {
      std::vector<NodeId> options;
      for (const Expression& part : expression.parts) options.push_back(node(graph, part, next));
      return graph.split(std::move(options));
    }
    case Kind::kRepeat: {
      const bool empty = nullable(expression.parts[0]);
      if (empty && expression.max != kUnbounded && expression.max > kMaxNullableCount) {
        usage_error("a count above {} for something that may be empty", kMaxNullableCount);
      }
      const NodeId body = node(graph, expression.parts[0], Graph::kReturn);
      return graph.repeat(body, empty ? 0 : expression.min, expression.max, next);
    }
  }
  return next;
}

Production EbnfRules::symbols(Bnf& bnf, const Expression& expression) const {
  if (expression.kind == Kind::kRegex && expression.id == kEmpty) return {};
  if (expression.kind == Kind::kRegex) return {{true, expression.id}};
  if (expression.kind == Kind::kRule) return {{false, expression.id + 1}};
  Production out;
  if (expression.kind == Kind::kSequence) {
    for (const Expression& part : expression.parts) {
      const Production symbols_of_part = symbols(bnf, part);
      out.insert(out.end(), symbols_of_part.begin(), symbols_of_part.end());
    }
    return out;
  }
  const uint32_t rule = bnf.add_rule();
  if (expression.kind == Kind::kChoice) {
    for (const Expression& part : expression.parts) bnf.add(rule, symbols(bnf, part));
    return {{false, rule}};
  }
  // x{2,4} is x x (x (x)?)?, with a rule for each optional end; x* is a rule that ends in itself.
  constexpr uint32_t kMaxCount = 64;
  const bool unbounded = expression.max == kUnbounded;
  if (expression.min > kMaxCount || (!unbounded && expression.max > kMaxCount)) {
    usage_error("a count above {} in a grammar with left recursion", kMaxCount);
  }
  const Production body = symbols(bnf, expression.parts[0]);
  uint32_t end = rule;
  const uint32_t levels = unbounded ? 1 : expression.max - expression.min;
  for (uint32_t level = 0; level < levels; ++level) {
    Production more = body;
    const uint32_t inner = unbounded ? end : bnf.add_rule();
    more.push_back({false, inner});
    bnf.add(end, more);
    bnf.add(end, {});
    end = inner;
  }
  if (!unbounded) bnf.add(end, {});
  for (uint32_t i = 0; i < expression.min; ++i) out.insert(out.end(), body.begin(), body.end());
  out.push_back({false, rule});
  return out;
}

Graph EbnfRules::by_productions() {
  Bnf bnf;
  const uint32_t root = bnf.add_rule();
  for (size_t i = 0; i < rules_.size(); ++i) bnf.add_rule();
  bnf.add(root, {{false, start_ + 1}});
  for (uint32_t i = 0; i < rules_.size(); ++i) bnf.add(i + 1, symbols(bnf, rules_[i]));
  return bnf.without_left_recursion(pool_);
}

Graph EbnfRules::graph() {
  find_terminals();
  find_nullable();
  if (is_left_recursive()) return by_productions();
  Graph out;
  const RuleId root = out.add_rule();
  for (size_t i = 0; i < rules_.size(); ++i) out.add_rule();
  for (uint32_t i = 0; i < rules_.size(); ++i) out.set_start(i + 1, node(out, rules_[i], Graph::kReturn));
  out.set_start(root, out.call(start_ + 1, Graph::kReturn));
  return out;
}

}  // namespace edgewise::grammar
