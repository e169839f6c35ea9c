#include "grammar/constraint.h"

#include <algorithm>
#include <exception>

#include "base/error.h"
#include "grammar/code_points.h"
#include "grammar/ebnf.h"
#include "grammar/engine.h"
#include "grammar/json_text.h"
#include "grammar/pattern_parser.h"
#include "grammar/schema_compiler.h"

namespace edgewise {

using grammar::Engine;
using grammar::Graph;
using grammar::JsonText;
using grammar::RegexPool;

// The pool with JSON's terminals, from whose copy every grammar starts, so that what is known about them holds for all.
struct grammar::CompilerParts {
  CompilerParts(const Tokenizer& tokenizer, int32_t vocabulary_size, std::vector<int32_t> end_tokens,
                std::span<const int32_t> kept)
      : text(pool) {
    std::erase_if(end_tokens, [&](int32_t token) { return token < 0 || token >= vocabulary_size; });
    vocabulary.trie = std::make_shared<const TokenTrie>(tokenizer, vocabulary_size, end_tokens, kept);
    vocabulary.end_tokens = std::move(end_tokens);
    for (const Regex unit : {text.unit, text.key_unit}) {
      vocabulary.strings.push_back(std::make_shared<const StringTokens>(pool, *vocabulary.trie, unit, text.quote));
    }
  }

  std::shared_ptr<const CompiledGrammar> finish(std::unique_ptr<RegexPool> own, Graph graph) const {
    return std::make_shared<const CompiledGrammar>(
        std::make_unique<Engine>(vocabulary, std::move(own), std::move(graph)));
  }

  RegexPool pool;
  JsonText text;
  Vocabulary vocabulary;
};

CompiledGrammar::CompiledGrammar(std::unique_ptr<Engine> engine) : engine_(std::move(engine)) {}
CompiledGrammar::~CompiledGrammar() = default;
int32_t CompiledGrammar::vocabulary_size() const { return engine_->trie().vocabulary_size(); }
size_t CompiledGrammar::mask_words() const { return engine_->trie().mask_words(); }

GrammarCompiler::GrammarCompiler(const Tokenizer& tokenizer, int32_t vocabulary_size, std::vector<int32_t> end_tokens,
                                 std::span<const int32_t> kept)
    : parts_(std::make_unique<const grammar::CompilerParts>(tokenizer, vocabulary_size, std::move(end_tokens), kept)) {}
GrammarCompiler::~GrammarCompiler() = default;
GrammarCompiler::GrammarCompiler(GrammarCompiler&&) noexcept = default;
GrammarCompiler& GrammarCompiler::operator=(GrammarCompiler&&) noexcept = default;

std::shared_ptr<const CompiledGrammar> GrammarCompiler::compile_json_schema(const OrderedJson& schema,
                                                                            const JsonSchemaOptions& options) const {
  auto pool = std::make_unique<RegexPool>(parts_->pool);
  grammar::SchemaCompiler compiler(*pool, parts_->text, schema, options.additional_properties);
  Graph graph = compiler.compile();
  return parts_->finish(std::move(pool), std::move(graph));
}

std::shared_ptr<const CompiledGrammar> GrammarCompiler::compile_json_schema_text(
    std::string_view schema, const JsonSchemaOptions& options) const {
  OrderedJson document;
  try {
    document = parse_ordered_json(schema, "JSON schema");
  } catch (const Error& error) {
    usage_error("{}", error.what());
  }
  return compile_json_schema(document, options);
}

std::shared_ptr<const CompiledGrammar> GrammarCompiler::compile_json_schema_within_text(const OrderedJson& schema,
                                                                                        const ValueFrame& frame) const {
  auto pool = std::make_unique<RegexPool>(parts_->pool);
  Graph graph = grammar::SchemaCompiler(*pool, parts_->text, schema, false).compile_within_text(frame);
  return parts_->finish(std::move(pool), std::move(graph));
}

std::shared_ptr<const CompiledGrammar> GrammarCompiler::compile_json_object() const {
  return compile_json_schema(OrderedJson{{"type", "object"}});
}

std::shared_ptr<const CompiledGrammar> GrammarCompiler::compile_json_value() const {
  return compile_json_schema(OrderedJson::object());
}

std::shared_ptr<const CompiledGrammar> GrammarCompiler::compile_regex(std::string_view pattern) const {
  auto pool = std::make_unique<RegexPool>(parts_->pool);
  Graph graph;
  const auto regex = grammar::parse_pattern(*pool, pattern, grammar::utf8_class, grammar::PatternScope::kWhole);
  const grammar::RuleId root = graph.add_rule();
  graph.set_start(root, graph.terminal(regex, Graph::kReturn));
  return parts_->finish(std::move(pool), std::move(graph));
}

std::shared_ptr<const CompiledGrammar> GrammarCompiler::compile_ebnf(std::string_view text) const {
  auto pool = std::make_unique<RegexPool>(parts_->pool);
  Graph graph = grammar::parse_ebnf(*pool, text);
  return parts_->finish(std::move(pool), std::move(graph));
}

ConstraintState::ConstraintState(std::shared_ptr<const CompiledGrammar> grammar) : grammar_(std::move(grammar)) {
  history_.reserve(1024);
  history_.push_back(grammar_->engine_->start());
}

void ConstraintState::fail(const char* why) noexcept {
  status_ = Status::kFailed;
  try {
    error_ = why;
  } catch (const std::exception&) {
    // Without memory for the reason the status has to do.
  }
}

// What throws here is a limit of the parser, or a lack of memory: the sequence fails, and it alone.
template <typename Work>
bool ConstraintState::guarded(const Work& work) noexcept {
  try {
    return work();
  } catch (const std::exception& error) {
    fail(error.what());
    return false;
  }
}

bool ConstraintState::fill_mask(std::span<uint64_t> bits) noexcept {
  const bool some = status_ == Status::kRunning && bits.size() >= grammar_->mask_words() && guarded([&] {
                      if (grammar_->engine_->fill_mask(history_.back(), bits.first(grammar_->mask_words())))
                        return true;
                      fail("the vocabulary has no token for what must come next");
                      return false;
                    });
  std::ranges::fill(some ? bits.subspan(grammar_->mask_words()) : bits, 0);
  return some;
}

bool ConstraintState::accept(int32_t token) noexcept {
  return status_ == Status::kRunning && guarded([&] {
           const grammar::Position next = grammar_->engine_->accept(history_.back(), token);
           if (next == grammar::Parser::kNowhere) return false;
           history_.push_back(next);
           if (next == Engine::kEnded) status_ = Status::kFinished;
           return true;
         });
}

void ConstraintState::rollback(size_t tokens) noexcept {
  history_.resize(history_.size() - std::min(tokens, accepted()));
  if (tokens == 0) return;
  status_ = Status::kRunning;
  error_.clear();
}

std::optional<ConstraintState::Place> ConstraintState::behind(Place place, int32_t token) const noexcept {
  try {
    const grammar::Position next = grammar_->engine_->accept(place, token);
    return next == grammar::Parser::kNowhere ? std::nullopt : std::optional(next);
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

bool ConstraintState::can_end() const noexcept { return grammar_->engine_->is_complete(history_.back()); }

bool ConstraintState::must_end() noexcept {
  return guarded([&] { return grammar_->engine_->is_final(history_.back()); });
}

std::string ConstraintState::forced_bytes() {
  constexpr size_t kLimit = 4096;
  return grammar_->engine_->forced_bytes(history_.back(), kLimit);
}

}  // namespace edgewise
