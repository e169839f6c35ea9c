#include "text/jinja/parser.h"

#include <algorithm>
#include <set>

#include "text/jinja/parser_base.h"

namespace edgewise::jinja {
namespace {

using EndNames = std::initializer_list<std::string_view>;

class Parser : public ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Body run() {
    Body body = statements({});
    if (current().kind != TokenKind::kEnd) fail(current(), "unexpected " + describe(current()));
    return body;
  }

 private:
  // Statements up to a tag with one of the names, whose name is then the current token.
  Body statements(EndNames ends) {
    const Nested nested(*this);
    Body body;
    while (current().kind != TokenKind::kEnd) {
      const Token& token = advance();
      if (token.kind == TokenKind::kData) {
        body.emplace_back(StmtKind::kText, token.line).text = token.text;
      } else if (token.kind == TokenKind::kVariableBegin) {
        Stmt output(StmtKind::kOutput, token.line);
        output.expr = tuple({});
        if (current().kind != TokenKind::kVariableEnd) fail(current(), "expected '}}', found " + describe(current()));
        advance();
        body.push_back(std::move(output));
      } else {
        if (current().kind != TokenKind::kName) fail(current(), "expected a tag name, found " + describe(current()));
        if (std::find(ends.begin(), ends.end(), current().text) != ends.end()) return body;
        statement(body);
        end_tag();
      }
    }
    if (ends.size() > 0) {
      fail(current(), fmt::format("the template ends, but {} was opened and wants {}",
                                  open_tags_.empty() ? "a tag" : "'" + open_tags_.back() + "'", wanted(ends)));
    }
    return body;
  }

  static std::string wanted(EndNames ends) {
    std::string text;
    for (const std::string_view end : ends) text += (text.empty() ? "'" : " or '") + std::string(end) + "'";
    return text;
  }

  void end_tag() {
    if (current().kind != TokenKind::kBlockEnd) fail(current(), "expected '%}', found " + describe(current()));
    advance();
  }

  // The inside of a tag up to its end tag, whose name stays current.
  Body block(EndNames ends) {
    skip_operator(":");  // as Python programmers write it
    end_tag();
    return statements(ends);
  }

  Body whole_block(std::string_view end) {
    Body body = block({end});
    advance();
    return body;
  }

  void statement(Body& body) {
    const Token& tag = advance();
    using Handler = Stmt (Parser::*)(int line);
    static constexpr std::pair<std::string_view, Handler> kHandlers[] = {{"if", &Parser::if_tag},
                                                                         {"for", &Parser::for_tag},
                                                                         {"set", &Parser::set_tag},
                                                                         {"macro", &Parser::macro_tag},
                                                                         {"call", &Parser::call_tag},
                                                                         {"filter", &Parser::filter_tag},
                                                                         {"with", &Parser::with_tag},
                                                                         {"block", &Parser::block_tag},
                                                                         {"generation", &Parser::generation_tag},
                                                                         {"autoescape", &Parser::autoescape_tag},
                                                                         {"break", &Parser::break_tag},
                                                                         {"continue", &Parser::continue_tag}};
    if (tag.text == "print") {
      print_tag(body, tag.line);
      return;
    }
    for (const auto& [name, handler] : kHandlers) {
      if (tag.text != name) continue;
      open_tags_.push_back(tag.text);
      body.push_back((this->*handler)(tag.line));
      open_tags_.pop_back();
      return;
    }
    for (const std::string_view other : {"extends", "include", "import", "from"}) {
      if (tag.text == other) {
        unsupported("{}:{}: '{}': a chat template is one file and can't refer to others", name_, tag.line, other);
      }
    }
    fail(tag, fmt::format("unknown tag '{}'{}", tag.text,
                          open_tags_.empty() ? "" : "; the innermost open tag is '" + open_tags_.back() + "'"));
  }

  // Loops end at functions: `break` in a macro can't leave a loop around it.
  Body function_body(std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    Body body = whole_block(end);
    loops_ = loops;
    return body;
  }

  void print_tag(Body& body, int line) {
    bool first = true;
    while (current().kind != TokenKind::kBlockEnd) {
      if (!std::exchange(first, false)) expect_operator(",");
      Stmt output(StmtKind::kOutput, line);
      output.expr = expression();
      body.push_back(std::move(output));
    }
  }

  Stmt if_tag(int line) {
    Stmt node(StmtKind::kIf, line);
    TupleOptions options;
    options.conditions = false;
    while (true) {
      ExprPtr condition = tuple(options);
      Body body = block({"elif", "else", "endif"});
      node.branches.push_back({std::move(condition), std::move(body)});
      const std::string end = advance().text;
      if (end == "else") node.orelse = whole_block("endif");
      if (end != "elif") return node;
    }
  }

  Stmt for_tag(int line) {
    Stmt node(StmtKind::kFor, line);
    TupleOptions options;
    options.simple = true;
    options.end_name = "in";
    ++loops_;
    node.target = target(options);
    expect_keyword("in");
    options = {};
    options.conditions = false;
    options.end_name = "recursive";
    node.expr = tuple(options);
    if (skip_name("if")) node.test = expression();
    node.recursive = skip_name("recursive");
    node.body = block({"endfor", "else"});
    --loops_;
    if (advance().text == "else") node.orelse = whole_block("endfor");
    return node;
  }

  Stmt set_tag(int line) {
    TupleOptions options;
    options.simple = true;
    options.namespaces = true;
    ExprPtr where = target(options);
    Stmt node(StmtKind::kSet, line);
    if (skip_operator("=")) {
      node.expr = tuple({});
    } else {
      node.kind = StmtKind::kSetBlock;
      if (current().is_operator("|")) node.expr = filter_chain(make(ExprKind::kBlockText, line), false);
      node.body = whole_block("endset");
    }
    node.target = std::move(where);
    return node;
  }

  // Names, tuples of names, and for `set` attributes of namespaces.
  ExprPtr target(const TupleOptions& options) {
    ExprPtr node = tuple(options);
    check_target(*node);
    return node;
  }

  void check_target(const Expr& node) const {
    if (node.kind == ExprKind::kTuple) {
      for (const ExprPtr& child : node.children) check_target(*child);
      return;
    }
    if (node.kind == ExprKind::kName && node.name == "loop" && loops_ > 0) {
      bad_file("{}:{}: can't assign to the special variable 'loop' inside of a loop", name_, node.line);
    }
    if (node.kind != ExprKind::kName && node.kind != ExprKind::kNamespaceTarget) {
      bad_file("{}:{}: can't assign to this expression", name_, node.line);
    }
  }

  std::unique_ptr<MacroSignature> signature() {
    auto out = std::make_unique<MacroSignature>();
    if (!skip_operator("(")) return out;
    while (!current().is_operator(")")) {
      if (!out->parameters.empty()) expect_operator(",");
      const Token& name = expect_name();
      if (std::find(out->parameters.begin(), out->parameters.end(), name.text) != out->parameters.end()) {
        fail(name, fmt::format("the parameter '{}' stands twice", name.text));
      }
      out->parameters.push_back(name.text);
      if (skip_operator("="))
        out->defaults.push_back(expression());
      else if (!out->defaults.empty())
        fail(current(), "a parameter without default follows one with default");
    }
    expect_operator(")");
    return out;
  }

  Body macro_body(MacroSignature& macro, std::string_view end) {
    const auto is_parameter = [&](const char* name) {
      return std::find(macro.parameters.begin(), macro.parameters.end(), name) != macro.parameters.end();
    };
    const int callers = loads_of("caller");
    const int kwargs = loads_of("kwargs");
    const int varargs = loads_of("varargs");
    Body body = function_body(end);
    macro.uses_caller = loads_of("caller") > callers;
    macro.uses_kwargs = loads_of("kwargs") > kwargs && !is_parameter("kwargs");
    macro.uses_varargs = loads_of("varargs") > varargs && !is_parameter("varargs");
    if (macro.uses_caller && is_parameter("caller")) {
      const auto index =
          std::find(macro.parameters.begin(), macro.parameters.end(), "caller") - macro.parameters.begin();
      const auto first_default = static_cast<std::ptrdiff_t>(macro.parameters.size() - macro.defaults.size());
      if (index < first_default) fail(current(), "the parameter 'caller' must be left out or have a default");
    }
    return body;
  }

  Stmt macro_tag(int line) {
    Stmt node(StmtKind::kMacro, line);
    const std::string name = expect_name().text;
    if (!current().is_operator("(")) fail(current(), "expected '(', found " + describe(current()));
    node.signature = signature();
    node.signature->name = name;
    node.body = macro_body(*node.signature, "endmacro");
    return node;
  }

  Stmt call_tag(int line) {
    Stmt node(StmtKind::kCallBlock, line);
    node.signature = signature();
    node.signature->name = "caller";
    node.expr = expression();
    if (node.expr->kind != ExprKind::kCall) fail(current(), "expected a call");
    node.body = macro_body(*node.signature, "endcall");
    return node;
  }

  Stmt filter_tag(int line) {
    Stmt node(StmtKind::kFilterBlock, line);
    node.expr = filter_chain(make(ExprKind::kBlockText, line), true);
    node.body = whole_block("endfilter");
    return node;
  }

  Stmt with_tag(int line) {
    Stmt node(StmtKind::kWith, line);
    while (current().kind != TokenKind::kBlockEnd) {
      if (!node.bindings.empty()) expect_operator(",");
      TupleOptions options;
      options.simple = true;
      ExprPtr name = target(options);
      expect_operator("=");
      node.bindings.emplace_back(std::move(name), expression());
    }
    node.body = whole_block("endwith");
    return node;
  }

  Stmt block_tag(int line) {
    Stmt node(StmtKind::kBlock, line);
    const Token& name = expect_name();
    if (!blocks_.insert(name.text).second) fail(name, fmt::format("the block '{}' is defined twice", name.text));
    node.scoped = skip_name("scoped");
    if (skip_name("required")) fail(name, "a required block needs a template that fills it, and there is none");
    node.body = function_body("endblock");
    skip_name(name.text);
    return node;
  }

  // transformers marks what the model generated with this tag; for rendering it is a scope.
  Stmt generation_tag(int line) {
    Stmt node(StmtKind::kScope, line);
    node.body = function_body("endgeneration");
    return node;
  }

  Stmt autoescape_tag(int line) {
    const ExprPtr option = expression();
    if (option->kind != ExprKind::kConstant || truthy(option->constant)) {
      unsupported("{}:{}: only {{% autoescape false %}} is supported", name_, line);
    }
    Stmt node(StmtKind::kScope, line);
    node.body = whole_block("endautoescape");
    return node;
  }

  Stmt break_tag(int line) { return loop_control(StmtKind::kBreak, line); }
  Stmt continue_tag(int line) { return loop_control(StmtKind::kContinue, line); }
  Stmt loop_control(StmtKind kind, int line) {
    if (loops_ == 0) bad_file("{}:{}: '{}' outside of a loop", name_, line, open_tags_.back());
    return {kind, line};
  }

  std::vector<std::string> open_tags_;
  std::set<std::string> blocks_;
  int loops_ = 0;
};

}  // namespace

Body parse(std::string_view source, const std::string& name) { return Parser(tokenize(source, name), name).run(); }

}  // namespace edgewise::jinja
