#include "grammar/bnf.h"

#include <algorithm>
#include <map>

#include "base/error.h"

namespace edgewise::grammar {

uint32_t Bnf::add_rule() {
  if (rules_.size() >= kMaxRules) usage_error("a grammar with left recursion is limited to {} rules", kMaxRules);
  rules_.emplace_back();
  return static_cast<uint32_t>(rules_.size() - 1);
}

void Bnf::add(uint32_t rule, Production production) {
  symbols_ += production.size() + 1;
  if (symbols_ > kMaxSymbols) usage_error("the grammar's left recursion is too entangled");
  rules_[rule].push_back(std::move(production));
}

// A terminal that may be empty becomes a rule with an empty production.
void Bnf::split_nullable_terminals(RegexPool& pool) {
  std::map<uint32_t, uint32_t> rule_of;
  const size_t count = rules_.size();
  for (size_t rule = 0; rule < count; ++rule) {
    for (size_t i = 0; i < rules_[rule].size(); ++i) {
      for (size_t at = 0; at < rules_[rule][i].size(); ++at) {
        const Symbol symbol = rules_[rule][i][at];
        if (!symbol.terminal || !pool.nullable(symbol.id)) continue;
        auto [known, fresh] = rule_of.try_emplace(symbol.id, 0);
        if (fresh) {
          known->second = add_rule();
          const Regex some = pool.both({symbol.id, pool.complement(kEmpty)});
          add(known->second, {{true, some}});
          add(known->second, {});
        }
        rules_[rule][i][at] = {false, known->second};
      }
    }
  }
}

// At most two symbols in a production.
void Bnf::shorten() {
  for (uint32_t rule = 0; rule < rules_.size(); ++rule) {
    for (size_t i = 0; i < rules_[rule].size(); ++i) {
      if (rules_[rule][i].size() <= 2) continue;
      const uint32_t rest = add_rule();
      Production& production = rules_[rule][i];
      Production tail(production.begin() + 1, production.end());
      production.resize(1);
      production.push_back({false, rest});
      add(rest, std::move(tail));
    }
  }
}

// Removes empty productions; true when rule 0 could be empty.
bool Bnf::remove_empty() {
  std::vector<bool> nullable(rules_.size());
  const auto can_vanish = [&](const Symbol& symbol) { return !symbol.terminal && nullable[symbol.id]; };
  for (bool changed = true; changed;) {
    changed = false;
    for (uint32_t rule = 0; rule < rules_.size(); ++rule) {
      if (nullable[rule]) continue;
      nullable[rule] = std::ranges::any_of(
          rules_[rule], [&](const Production& production) { return std::ranges::all_of(production, can_vanish); });
      changed |= nullable[rule];
    }
  }
  for (uint32_t rule = 0; rule < rules_.size(); ++rule) {
    const std::vector<Production> old = std::move(rules_[rule]);
    rules_[rule].clear();
    for (const Production& production : old) {
      if (production.empty()) continue;
      add(rule, production);
      if (production.size() == 2 && can_vanish(production[0])) add(rule, {production[1]});
      if (production.size() == 2 && can_vanish(production[1])) add(rule, {production[0]});
    }
  }
  return nullable[0];
}

// A rule takes over the productions of the rules that it can be replaced by.
void Bnf::remove_units() {
  const auto is_unit = [](const Production& production) { return production.size() == 1 && !production[0].terminal; };
  std::vector<std::vector<Production>> out(rules_.size());
  for (uint32_t rule = 0; rule < rules_.size(); ++rule) {
    std::vector<uint32_t> open{rule};
    std::vector<bool> reached(rules_.size());
    reached[rule] = true;
    while (!open.empty()) {
      const uint32_t from = open.back();
      open.pop_back();
      for (const Production& production : rules_[from]) {
        symbols_ += production.size();
        if (!is_unit(production)) {
          out[rule].push_back(production);
        } else if (!reached[production[0].id]) {
          reached[production[0].id] = true;
          open.push_back(production[0].id);
        }
      }
      if (symbols_ > kMaxSymbols) usage_error("the grammar's left recursion is too entangled");
    }
    std::ranges::sort(out[rule]);
    out[rule].erase(std::unique(out[rule].begin(), out[rule].end()), out[rule].end());
  }
  rules_ = std::move(out);
}

// Which rules can stand at the very left of each rule.
std::vector<std::vector<bool>> Bnf::left_reach() const {
  std::vector<std::vector<uint32_t>> edges(rules_.size());
  for (uint32_t rule = 0; rule < rules_.size(); ++rule) {
    for (const Production& production : rules_[rule]) {
      if (!production[0].terminal) edges[rule].push_back(production[0].id);
    }
    std::ranges::sort(edges[rule]);
    edges[rule].erase(std::unique(edges[rule].begin(), edges[rule].end()), edges[rule].end());
  }
  std::vector<std::vector<bool>> reach(rules_.size(), std::vector<bool>(rules_.size()));
  for (uint32_t rule = 0; rule < rules_.size(); ++rule) {
    std::vector<uint32_t> open{rule};
    while (!open.empty()) {
      const uint32_t at = open.back();
      open.pop_back();
      for (const uint32_t next : edges[at]) {
        if (reach[rule][next]) continue;
        reach[rule][next] = true;
        open.push_back(next);
      }
    }
  }
  return reach;
}

// `rules` begin with each other. Each of their texts begins with a production `b` of one of them that does not, and
// goes on with the rests `a` of productions "m ::= j a" until the wanted rule is reached: that chain is read from the
// left by new rules (j, i), "what makes an i out of a j".
void Bnf::turn_around(const std::vector<uint32_t>& rules) {
  std::map<std::pair<uint32_t, uint32_t>, uint32_t> chain;
  for (const uint32_t j : rules) {
    for (const uint32_t i : rules) chain[{j, i}] = add_rule();
  }
  std::map<uint32_t, std::vector<Production>> old;
  for (const uint32_t rule : rules) old[rule] = std::move(rules_[rule]);
  for (const uint32_t rule : rules) rules_[rule].clear();
  for (const uint32_t i : rules) {
    add(chain[{i, i}], {});
    for (const uint32_t j : rules) {
      for (const Production& production : old[j]) {
        const bool begins_with_one = !production[0].terminal && old.contains(production[0].id);
        Production rest(production.begin() + (begins_with_one ? 1 : 0), production.end());
        rest.push_back({false, chain[{j, i}]});
        add(begins_with_one ? chain[{production[0].id, i}] : i, std::move(rest));
      }
    }
  }
}

Graph Bnf::graph(bool start_is_nullable) const {
  Graph out;
  const RuleId root = out.add_rule();
  for (size_t rule = 0; rule < rules_.size(); ++rule) out.add_rule();
  for (uint32_t rule = 0; rule < rules_.size(); ++rule) {
    std::vector<NodeId> options;
    for (const Production& production : rules_[rule]) {
      NodeId at = Graph::kReturn;
      for (auto symbol = production.rbegin(); symbol != production.rend(); ++symbol) {
        at = symbol->terminal ? out.terminal(symbol->id, at) : out.call(symbol->id + 1, at);
      }
      options.push_back(at);
    }
    out.set_start(rule + 1, out.split(std::move(options)));
  }
  const NodeId start = out.call(1, Graph::kReturn);
  out.set_start(root, start_is_nullable ? out.split({start, Graph::kReturn}) : start);
  return out;
}

Graph Bnf::without_left_recursion(RegexPool& pool) {
  split_nullable_terminals(pool);
  shorten();
  const bool start_is_nullable = remove_empty();
  remove_units();
  const auto reach = left_reach();
  std::vector<bool> done(reach.size());
  for (uint32_t rule = 0; rule < reach.size(); ++rule) {
    if (done[rule] || !reach[rule][rule]) continue;
    std::vector<uint32_t> circle;
    for (uint32_t other = 0; other < reach.size(); ++other) {
      if (reach[rule][other] && reach[other][rule]) circle.push_back(other);
    }
    for (const uint32_t other : circle) done[other] = true;
    turn_around(circle);
  }
  return graph(start_is_nullable);
}

}  // namespace edgewise::grammar
