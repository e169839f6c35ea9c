// The token cursor and the expression half of the parser; parser.cpp adds statements.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "text/jinja/ast.h"
#include "text/jinja/lexer.h"

namespace edgewise::jinja {

inline constexpr int kMaxNesting = 120;    // brackets in brackets, blocks in blocks
inline constexpr int kMaxExprDepth = 300;  // levels of one expression's tree

class ExpressionParser {
 public:
  ExpressionParser(std::vector<Token> tokens, const std::string& name) : name_(name), tokens_(std::move(tokens)) {}

 protected:
  // Counts nesting while it lives.
  class Nested {
   public:
    explicit Nested(ExpressionParser& parser) : parser_(parser) {
      if (++parser_.nesting_ > kMaxNesting) parser_.fail(parser_.current(), "nested too deeply");
    }
    ~Nested() { --parser_.nesting_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;

   private:
    ExpressionParser& parser_;
  };

  struct TupleOptions {
    bool conditions = true;          // inline if allowed
    bool simple = false;             // only names and literals, as in targets
    bool parentheses = false;        // an empty tuple is fine
    bool namespaces = false;         // name.attribute as a target
    std::string_view end_name = {};  // a name that ends the tuple, as `in`
  };

  [[noreturn]] void fail(const Token& at, const std::string& message) const {
    bad_file("{}:{}: {}", name_, at.line, message);
  }
  const Token& current() const { return tokens_[at_]; }
  const Token& look() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  const Token& advance() {
    const Token& token = tokens_[at_];
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  bool skip_name(std::string_view text);
  bool skip_operator(std::string_view text);
  const Token& expect_operator(std::string_view text);
  const Token& expect_name();
  void expect_keyword(std::string_view text);
  // How often a name was read so far: tells whether a macro's body reads `caller`.
  int loads_of(const std::string& name) const;

  ExprPtr expression(bool conditions = true) { return conditions ? condition() : disjunction(); }
  ExprPtr tuple(const TupleOptions& options);
  ExprPtr primary(bool namespaces);
  // Filters behind a value that comes at run time; null when none stand there.
  ExprPtr filter_chain(ExprPtr subject, bool starts_inline);
  ExprPtr make(ExprKind kind, int line) const { return std::make_unique<Expr>(kind, line); }
  // Computes the depth once the children are in place.
  ExprPtr finish(ExprPtr node) const;

 private:
  ExprPtr condition();
  ExprPtr disjunction();
  ExprPtr conjunction();
  ExprPtr negation();
  ExprPtr comparison();
  ExprPtr addition();
  ExprPtr concatenation();
  ExprPtr multiplication();
  ExprPtr power();
  ExprPtr unary(bool with_filters);
  ExprPtr number();
  ExprPtr list();
  ExprPtr dict();
  ExprPtr postfix(ExprPtr node);
  ExprPtr filters_and_tests(ExprPtr node);
  ExprPtr subscript(ExprPtr node);
  ExprPtr slice_or_item(ExprPtr node, int line);
  ExprPtr call(ExprPtr function);
  void call_arguments(Expr& node);
  ExprPtr test(ExprPtr subject);
  std::string dotted_name();
  bool at_tuple_end(const TupleOptions& options) const;
  ExprPtr binary(ExprKind kind, ExprPtr left, ExprPtr right, int line) const;

 protected:
  const std::string& name_;

 private:
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int nesting_ = 0;
  std::map<std::string, int, std::less<>> loads_;
};

}  // namespace edgewise::jinja
