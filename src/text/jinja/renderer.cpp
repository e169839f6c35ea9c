// Statements. Expressions stand in evaluator.cpp.
#include "text/jinja/renderer.h"

#include "text/jinja/failure.h"

namespace edgewise::jinja {

const Value* Scope::find(std::string_view name) const {
  for (const auto& [known, value] : variables) {
    if (known == name) return &value;
  }
  return nullptr;
}

void Scope::set(const std::string& name, Value value) {
  for (auto& [known, old] : variables) {
    if (known == name) {
      old = std::move(value);
      return;
    }
  }
  variables.emplace_back(name, std::move(value));
}

class Renderer::ScopeGuard {
 public:
  ScopeGuard(Renderer& renderer, ScopePtr scope)
      : renderer_(renderer), outer_(std::exchange(renderer.scope_, std::move(scope))) {}
  ~ScopeGuard() { renderer_.scope_ = std::move(outer_); }
  ScopeGuard(const ScopeGuard&) = delete;
  ScopeGuard& operator=(const ScopeGuard&) = delete;

 private:
  Renderer& renderer_;
  ScopePtr outer_;
};

// Collects the output instead of printing it.
class Renderer::CaptureGuard {
 public:
  explicit CaptureGuard(Renderer& renderer) : renderer_(renderer), outer_(std::exchange(renderer.out_, &text_)) {}
  ~CaptureGuard() { renderer_.out_ = outer_; }
  CaptureGuard(const CaptureGuard&) = delete;
  CaptureGuard& operator=(const CaptureGuard&) = delete;
  Value take() { return make_str(std::move(text_)); }

 private:
  Renderer& renderer_;
  std::string text_;
  std::string* outer_;
};

class Renderer::CallGuard {
 public:
  explicit CallGuard(Renderer& renderer) : renderer_(renderer) {
    if (renderer_.calls_ >= kMaxCallDepth) limit_error("more than {} calls in each other", kMaxCallDepth);
    ++renderer_.calls_;
  }
  ~CallGuard() { --renderer_.calls_; }
  CallGuard(const CallGuard&) = delete;
  CallGuard& operator=(const CallGuard&) = delete;

 private:
  Renderer& renderer_;
};

Renderer::Renderer(const Body& body, Clock clock)
    : body_(body), root_(std::make_shared<Scope>(nullptr)), scope_(root_) {
  for (auto& [name, value] : make_globals(clock)) context_.emplace(name, value);
  context_.emplace("namespace", make_function("namespace", [this](const Args& args) { return make_namespace(args); }));
}

Renderer::~Renderer() {
  for (const auto& space : namespaces_) space->clear();
  for (const auto& macro : macros_) macro->cut();
}

std::string Renderer::render() {
  run(body_);
  return std::move(output_);
}

void Renderer::write(std::string_view text) {
  Budget::check_text(out_->size() + text.size());
  Budget::step(static_cast<int64_t>(text.size() / 256));
  *out_ += text;
}

Renderer::Flow Renderer::run(const Body& body) {
  for (const Stmt& stmt : body) {
    if (const Flow flow = run(stmt); flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

Renderer::Flow Renderer::run(const Stmt& stmt) {
  Budget::step();
  Budget::check_stack();
  line_ = stmt.line;
  switch (stmt.kind) {
    case StmtKind::kText:
      write(stmt.text);
      return Flow::kNormal;
    case StmtKind::kOutput: {
      const Value value = evaluate(*stmt.expr);
      write(value.is_str() ? value.text() : to_text(value));
      return Flow::kNormal;
    }
    case StmtKind::kIf:
      return run_if(stmt);
    case StmtKind::kFor: {
      const Value iterable = evaluate(*stmt.expr);
      run_for(stmt, iterable, scope_, 0);
      return Flow::kNormal;
    }
    case StmtKind::kSet:
      assign(*stmt.target, evaluate(*stmt.expr));
      return Flow::kNormal;
    case StmtKind::kSetBlock:
    case StmtKind::kFilterBlock:
      return run_captured(stmt);
    case StmtKind::kMacro:
      scope_->set(stmt.signature->name, make_macro(stmt));
      return Flow::kNormal;
    case StmtKind::kCallBlock:
      run_call_block(stmt);
      return Flow::kNormal;
    case StmtKind::kWith:
      run_with(stmt);
      return Flow::kNormal;
    case StmtKind::kScope:
      return run_in_new_scope(stmt.body, scope_);
    case StmtKind::kBlock:
      return run_in_new_scope(stmt.body, stmt.scoped ? scope_ : root_);
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNormal;
}

Renderer::Flow Renderer::run_if(const Stmt& stmt) {
  for (const Branch& branch : stmt.branches) {
    if (truthy(evaluate(*branch.condition))) return run(branch.body);
  }
  return run(stmt.orelse);
}

Renderer::Flow Renderer::run_in_new_scope(const Body& body, ScopePtr parent) {
  const ScopeGuard guard(*this, std::make_shared<Scope>(std::move(parent)));
  return run(body);
}

// {% set x %}...{% endset %} and {% filter f %}...{% endfilter %}.
Renderer::Flow Renderer::run_captured(const Stmt& stmt) {
  Value text;
  {
    const ScopeGuard guard(*this, std::make_shared<Scope>(scope_));
    CaptureGuard capture(*this);
    if (const Flow flow = run(stmt.body); flow != Flow::kNormal) return flow;
    text = capture.take();
    if (stmt.expr) {
      const Value outer = std::exchange(block_text_, text);
      text = evaluate(*stmt.expr);
      block_text_ = outer;
    }
  }
  if (stmt.kind == StmtKind::kSetBlock) {
    assign(*stmt.target, text);
  } else {
    write(to_text(text));
  }
  return Flow::kNormal;
}

Next Renderer::filtered(const Stmt& stmt, Next next, const ScopePtr& outer) {
  return [this, &stmt, next = std::move(next), outer](Value& item) {
    while (next(item)) {
      const ScopeGuard guard(*this, std::make_shared<Scope>(outer));
      assign(*stmt.target, item);
      if (truthy(evaluate(*stmt.test))) return true;
    }
    return false;
  };
}

void Renderer::run_for(const Stmt& stmt, const Value& iterable, const ScopePtr& outer, int depth0) {
  const CallGuard call(*this);
  Next next = iterate(iterable);
  std::optional<int64_t> length;
  if (stmt.test) {
    next = filtered(stmt, std::move(next), outer);
  } else if (!iterable.is(Kind::kObject) || iterable.object()->length()) {
    length = length_of(iterable);
  }
  Loop::Recurse recurse;
  if (stmt.recursive) {
    recurse = [this, &stmt, outer, depth0](const Value& children) {
      CaptureGuard capture(*this);
      run_for(stmt, children, outer, depth0 + 1);
      return capture.take();
    };
  }
  const auto loop = std::make_shared<Loop>(std::move(next), length, depth0, std::move(recurse), depth_of(iterable));
  struct Finish {
    Loop& loop;
    ~Finish() { loop.finish(); }
  } const finish{*loop};
  // As in jinja2, a turn that ends in break or continue does not count against the else branch.
  bool any_whole_turn = false;
  ScopePtr scope;
  for (Value item; loop->advance(item);) {
    Budget::step();
    if (scope && scope.use_count() == 1) {
      scope->variables.clear();
    } else {
      scope = std::make_shared<Scope>(outer);
    }
    const ScopeGuard guard(*this, scope);
    scope->set("loop", ObjectPtr(loop));
    assign(*stmt.target, item);
    const Flow flow = run(stmt.body);
    if (flow == Flow::kBreak) break;
    any_whole_turn = any_whole_turn || flow == Flow::kNormal;
  }
  if (!any_whole_turn && !stmt.orelse.empty()) run_in_new_scope(stmt.orelse, outer);
}

void Renderer::run_with(const Stmt& stmt) {
  auto scope = std::make_shared<Scope>(scope_);
  std::vector<Value> values;
  for (const auto& [target, expr] : stmt.bindings) values.push_back(evaluate(*expr));
  const ScopeGuard guard(*this, std::move(scope));
  for (size_t i = 0; i < values.size(); ++i) assign(*stmt.bindings[i].first, values[i]);
  run(stmt.body);
}

Value Renderer::make_macro(const Stmt& stmt) {
  macros_.push_back(std::make_shared<Macro>(*this, *stmt.signature, stmt.body, scope_));
  return ObjectPtr(macros_.back());
}

void Renderer::run_call_block(const Stmt& stmt) {
  const Value caller = make_macro(stmt);
  const Value function = evaluate(*stmt.expr->children[0]);
  Args args = evaluate_arguments(*stmt.expr);
  for (const auto& [name, value] : args.named) {
    if (name == "caller") type_error("got multiple values for keyword argument 'caller'");
  }
  args.named.emplace_back("caller", caller);
  write(to_text(call(function, args)));
}

Value Renderer::run_macro(const Body& body, ScopePtr scope) {
  const CallGuard call(*this);
  const ScopeGuard guard(*this, std::move(scope));
  CaptureGuard capture(*this);
  run(body);
  return capture.take();
}

Value Renderer::make_namespace(const Args& args) {
  auto space = std::make_shared<Namespace>();
  for (auto& [key, value] : dict_items(args)) {
    if (key.is_str()) space->set(key.text(), std::move(value));
  }
  Budget::check_items(namespaces_.size());
  namespaces_.push_back(space);
  return ObjectPtr(std::move(space));
}

void Renderer::assign(const Expr& target, const Value& value) {
  if (target.kind == ExprKind::kName) {
    scope_->set(target.name, value);
    return;
  }
  if (target.kind == ExprKind::kNamespaceTarget) {
    const auto space = evaluate_name(target.owner).as<Namespace>();
    if (!space) runtime_error("cannot assign attribute on non-namespace object");
    space->set(target.name, value);
    return;
  }
  const std::vector<Value> items = to_vector(value);
  if (items.size() != target.children.size()) {
    value_error("{} values to unpack (expected {}, got {})",
                items.size() < target.children.size() ? "not enough" : "too many", target.children.size(),
                items.size());
  }
  for (size_t i = 0; i < items.size(); ++i) assign(*target.children[i], items[i]);
}

}  // namespace edgewise::jinja
