// Runs a syntax tree.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/objects.h"

namespace edgewise::jinja {

// Variables of one level: the template, a turn of a loop, a macro call, a `with`.
struct Scope {
  explicit Scope(std::shared_ptr<Scope> outer) : parent(std::move(outer)) {}
  const Value* find(std::string_view name) const;
  void set(const std::string& name, Value value);
  std::shared_ptr<Scope> parent;
  std::vector<std::pair<std::string, Value>> variables;
};
using ScopePtr = std::shared_ptr<Scope>;

class Macro;

// One render; use once. Throws Failure; line() then tells where.
class Renderer {
 public:
  Renderer(const Body& body, Clock clock);
  ~Renderer();
  Renderer(const Renderer&) = delete;
  Renderer& operator=(const Renderer&) = delete;

  // Before render().
  void set_input(const std::string& name, Value value) { context_.insert_or_assign(name, std::move(value)); }
  std::string render();
  int line() const { return line_; }

  // The text of a macro's body under a scope that holds its arguments.
  Value run_macro(const Body& body, ScopePtr scope);
  Value evaluate_in(const Expr& expr, const ScopePtr& scope);

 private:
  enum class Flow { kNormal, kBreak, kContinue };
  class ScopeGuard;
  class CaptureGuard;
  class CallGuard;

  Flow run(const Body& body);
  Flow run(const Stmt& stmt);
  Flow run_if(const Stmt& stmt);
  Flow run_in_new_scope(const Body& body, ScopePtr parent);
  Flow run_captured(const Stmt& stmt);
  void run_for(const Stmt& stmt, const Value& iterable, const ScopePtr& outer, int depth0);
  Next filtered(const Stmt& stmt, Next next, const ScopePtr& outer);
  void run_with(const Stmt& stmt);
  void run_call_block(const Stmt& stmt);
  Value make_macro(const Stmt& stmt);
  void assign(const Expr& target, const Value& value);
  void write(std::string_view text);

  Value evaluate(const Expr& expr);
  Value evaluate_kind(const Expr& expr);
  Value evaluate_or_none(const ExprPtr& expr) { return expr ? evaluate(*expr) : Value(); }
  Value evaluate_name(const std::string& name) const;
  Value evaluate_compare(const Expr& expr);
  Value evaluate_concat(const Expr& expr);
  Value evaluate_dict(const Expr& expr);
  Value evaluate_condition(const Expr& expr);
  std::vector<Value> evaluate_all(const std::vector<ExprPtr>& exprs, size_t from = 0);
  Args evaluate_arguments(const Expr& expr);
  Value make_namespace(const Args& args);

  Budget budget_;  // first: outlives every value
  const Body& body_;
  std::unordered_map<std::string, Value> context_;
  // Macros and namespaces can form cycles, which the destructor cuts.
  std::vector<std::shared_ptr<Macro>> macros_;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
  ScopePtr root_;
  ScopePtr scope_;
  std::string output_;
  std::string* out_ = &output_;
  Value block_text_;
  int line_ = 1;
  int calls_ = 0;
};

// A macro or the body of a call block, with the variables around its definition.
class Macro : public Object {
 public:
  Macro(Renderer& renderer, const MacroSignature& signature, const Body& body, ScopePtr closure)
      : renderer_(renderer), signature_(signature), body_(body), closure_(std::move(closure)) {}
  std::string type_name() const override { return "Macro"; }
  std::string repr() const override { return "<Macro " + string_literal(signature_.name) + ">"; }
  bool is_callable() const override { return true; }
  Value call(const Args& args) override;
  std::optional<Value> attribute(const std::string& name) override;
  void cut() { closure_.reset(); }

 private:
  void bind_special(const Args& args, std::vector<std::pair<std::string, Value>> named, bool caller_bound,
                    Scope& scope);

  Renderer& renderer_;
  const MacroSignature& signature_;
  const Body& body_;
  ScopePtr closure_;
};

}  // namespace edgewise::jinja
