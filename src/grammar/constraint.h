// Structured output: a grammar says at each step which tokens may come next, so that the finished text is sure to be in
// its language. One compiler for a tokenizer, one compiled grammar for a schema, one state for a sequence.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/json.h"
#include "text/tokenizer.h"

namespace edgewise {

namespace grammar {
class Engine;
struct CompilerParts;
}  // namespace grammar

// A grammar for one vocabulary. What is learnt about it while it is used is kept and shared: any number of states in
// any number of threads may use it, one at a time inside.
class CompiledGrammar {
 public:
  explicit CompiledGrammar(std::unique_ptr<grammar::Engine> engine);
  ~CompiledGrammar();

  int32_t vocabulary_size() const;
  size_t mask_words() const;  // 64 tokens each

 private:
  friend class ConstraintState;
  std::unique_ptr<grammar::Engine> engine_;
};

struct JsonSchemaOptions {
  // Whether an object that lists properties, but says nothing of additionalProperties, may have others. JSON Schema
  // allows them; who asks a model for such an object rarely wants them. The output validates either way.
  bool additional_properties = false;
};

// Where values stand in a text that is otherwise free.
struct ValueFrame {
  std::string before;  // what begins a value anywhere in the text; "": values stand at the beginning, or there are none
  std::string after;   // what ends one
  std::string between;  // without `before`: what separates values; "": there is one at most
  bool operator==(const ValueFrame&) const = default;
};

// All compile functions throw Error(kUsage): with a JSON pointer ("/properties/a/not: the keyword is not supported"),
// with "position 12" in a regular expression, or with "3:14" (line:column) in a grammar text. Const use from several
// threads at once needs no lock.
class GrammarCompiler {
 public:
  // Tokens of the model at or above the tokenizer's vocabulary are never allowed, nor those not among `kept`
  // (ascending; empty: all). `end_tokens` are allowed exactly when the text may end. Throws Error(kUnsupported) for
  // tokenizers whose tokens have no bytes of their own.
  GrammarCompiler(const Tokenizer& tokenizer, int32_t vocabulary_size, std::vector<int32_t> end_tokens,
                  std::span<const int32_t> kept = {});
  ~GrammarCompiler();
  GrammarCompiler(GrammarCompiler&&) noexcept;
  GrammarCompiler& operator=(GrammarCompiler&&) noexcept;

  // JSON Schema, draft 2020-12; docs in schema_compiler.h. Properties come in the schema's order.
  std::shared_ptr<const CompiledGrammar> compile_json_schema(const OrderedJson& schema,
                                                             const JsonSchemaOptions& options = {}) const;
  std::shared_ptr<const CompiledGrammar> compile_json_schema_text(std::string_view schema,
                                                                  const JsonSchemaOptions& options = {}) const;
  // Any text in which each value that the frame announces satisfies the schema.
  std::shared_ptr<const CompiledGrammar> compile_json_schema_within_text(const OrderedJson& schema,
                                                                         const ValueFrame& frame) const;
  // Any JSON object; any JSON value.
  std::shared_ptr<const CompiledGrammar> compile_json_object() const;
  std::shared_ptr<const CompiledGrammar> compile_json_value() const;
  // The whole text matches (pattern_parser.h).
  std::shared_ptr<const CompiledGrammar> compile_regex(std::string_view pattern) const;
  // Grammar text in the style of GBNF and Lark (ebnf.h).
  std::shared_ptr<const CompiledGrammar> compile_ebnf(std::string_view text) const;

 private:
  std::unique_ptr<const grammar::CompilerParts> parts_;
};

// How far one sequence is. Copies are cheap and independent. Functions that are noexcept report limits by status().
class ConstraintState {
 public:
  enum class Status {
    kRunning,
    kFinished,  // an end token was accepted
    kFailed,    // error() says why: a limit was reached, or the vocabulary cannot spell any continuation
  };

  explicit ConstraintState(std::shared_ptr<const CompiledGrammar> grammar);

  // Sets bit t of `bits` (mask_words() long) exactly for the tokens that may come next. False, and no bit, when there
  // are none: finished or failed.
  bool fill_mask(std::span<uint64_t> bits) noexcept;
  // Appends the token; false, and nothing changes, when the grammar does not allow it.
  bool accept(int32_t token) noexcept;
  // Takes back the last tokens accepted, all of them at most, and what came of them.
  void rollback(size_t tokens) noexcept;

  // How far a text is. Looking ahead from one changes nothing here: what lies behind the token, and nothing when the
  // grammar does not allow it or a limit is reached.
  using Place = uint32_t;
  Place place() const noexcept { return history_.back(); }
  std::optional<Place> behind(Place place, int32_t token) const noexcept;

  bool can_end() const noexcept;  // the text so far is complete
  bool must_end() noexcept;       // and nothing can follow
  // The text that has to come next, as far as there is no choice; at most 4096 bytes.
  std::string forced_bytes();

  size_t accepted() const { return history_.size() - 1; }  // tokens
  Status status() const { return status_; }
  const std::string& error() const { return error_; }

 private:
  template <typename Work>
  bool guarded(const Work& work) noexcept;
  void fail(const char* why) noexcept;

  std::shared_ptr<const CompiledGrammar> grammar_;
  std::vector<Place> history_;  // after each token
  Status status_ = Status::kRunning;
  std::string error_;
};

}  // namespace edgewise
