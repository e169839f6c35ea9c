// The syntax tree of a template. Built by parse(), never changed after, read by any number of threads.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja/operators.h"
#include "text/jinja/value.h"

namespace edgewise::jinja {

struct Expr;
struct Stmt;
using ExprPtr = std::unique_ptr<Expr>;
using Body = std::vector<Stmt>;

enum class ExprKind {
  kConstant,   // constant
  kName,       // name
  kBlockText,  // what a filter block or a block assignment collected
  kList,       // children
  kTuple,      // children
  kDict,       // children: key, value, key, value ...
  kAttribute,  // children[0].name
  kItem,       // children[0][children[1]]
  kSlice,      // children[0][children[1]:children[2]:children[3]], null where left out
  kCall,       // children[0](children[1...], named, star, double_star)
  kFilter,     // children[0]|name(children[1...], ...)
  kTest,       // children[0] is name(children[1...], ...)
  kBinary,     // children[0] op children[1]
  kNegate,
  kPlus,
  kNot,
  kAnd,
  kOr,
  kConcat,           // children[0] ~ children[1] ~ ...
  kCompare,          // children[0] comparisons[0] children[1] comparisons[1] children[2] ...
  kCondition,        // children[1] if children[0] else children[2], which may be null
  kNamespaceTarget,  // constant.name = ...: only as a target; `owner` is the variable
};

struct Expr {
  Expr(ExprKind k, int l) : kind(k), line(l) {}
  ExprKind kind;
  int line;
  int depth = 1;
  Operator op = Operator::kAdd;
  std::string name;
  std::string owner;
  Value constant;
  std::vector<ExprPtr> children;
  std::vector<Comparison> comparisons;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr star;
  ExprPtr double_star;
};

enum class StmtKind {
  kText,         // text
  kOutput,       // expr
  kIf,           // branches: (expr, body) in turn; orelse
  kFor,          // target in expr if test: body; orelse
  kSet,          // target = expr
  kSetBlock,     // target = body, through `expr` (a filter chain over kBlockText) when there
  kMacro,        // signature, body
  kCallBlock,    // expr with a caller of that signature and body
  kFilterBlock,  // expr over body
  kWith,         // bindings, body
  kScope,        // body with variables of its own: {% generation %}, {% autoescape false %}
  kBlock,        // body, which sees only top-level variables unless `scoped`
  kBreak,
  kContinue,
};

struct MacroSignature {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExprPtr> defaults;  // of the last parameters
  bool uses_caller = false;
  bool uses_kwargs = false;
  bool uses_varargs = false;
};

struct Branch {
  ExprPtr condition;
  Body body;
};

struct Stmt {
  Stmt(StmtKind k, int l) : kind(k), line(l) {}
  StmtKind kind;
  int line;
  bool recursive = false;
  bool scoped = false;
  std::string text;
  ExprPtr expr;
  ExprPtr target;
  ExprPtr test;
  std::vector<Branch> branches;
  Body body;
  Body orelse;
  std::vector<std::pair<ExprPtr, ExprPtr>> bindings;
  std::unique_ptr<MacroSignature> signature;
};

}  // namespace edgewise::jinja
