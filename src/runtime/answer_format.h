// The form an answer must have, and the grammars compiled for it.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "grammar/constraint.h"

namespace edgewise {

enum class AnswerForm { kJsonObject, kJsonSchema, kRegex, kEbnf, kValuesInText };

struct AnswerFormat {
  AnswerForm form = AnswerForm::kJsonObject;
  std::string text;    // the schema, expression or grammar; empty for kJsonObject
  ValueFrame frame{};  // of kValuesInText, whose `text` is a JSON schema
  bool operator==(const AnswerFormat&) const = default;
};

// Compiles formats and keeps the last ones, with what was learnt while they were used. Safe from any thread.
class GrammarCache {
 public:
  // `kept` as for GrammarCompiler; outlives this.
  GrammarCache(const Tokenizer& tokenizer, int64_t vocabulary, std::vector<int32_t> end_tokens,
               std::span<const int32_t> kept);

  // Throws Error(kUsage) saying where the format is wrong, Error(kUnsupported) when the tokenizer can't be constrained.
  std::shared_ptr<const CompiledGrammar> get(const AnswerFormat& format);

 private:
  static constexpr size_t kKept = 64;
  const GrammarCompiler& compiler();

  const Tokenizer& tokenizer_;
  const int32_t vocabulary_;
  const std::vector<int32_t> end_tokens_;
  const std::span<const int32_t> kept_tokens_;
  std::mutex mutex_;
  std::optional<GrammarCompiler> compiler_;  // made when first needed: it sorts the whole vocabulary
  std::list<std::pair<AnswerFormat, std::shared_ptr<const CompiledGrammar>>> kept_;  // the latest used first
};

}  // namespace edgewise
