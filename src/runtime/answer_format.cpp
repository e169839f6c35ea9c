#include "runtime/answer_format.h"

#include <algorithm>

namespace edgewise {
namespace {

std::shared_ptr<const CompiledGrammar> compile(const GrammarCompiler& compiler, const AnswerFormat& format) {
  switch (format.form) {
    case AnswerForm::kJsonSchema:
      return compiler.compile_json_schema_text(format.text);
    case AnswerForm::kValuesInText:
      return compiler.compile_json_schema_within_text(parse_ordered_json(format.text, "JSON schema"), format.frame);
    case AnswerForm::kRegex:
      return compiler.compile_regex(format.text);
    case AnswerForm::kEbnf:
      return compiler.compile_ebnf(format.text);
    case AnswerForm::kJsonObject:
      break;
  }
  return compiler.compile_json_object();
}

}  // namespace

GrammarCache::GrammarCache(const Tokenizer& tokenizer, int64_t vocabulary, std::vector<int32_t> end_tokens,
                           std::span<const int32_t> kept)
    : tokenizer_(tokenizer),
      vocabulary_(static_cast<int32_t>(vocabulary)),
      end_tokens_(std::move(end_tokens)),
      kept_tokens_(kept) {}

const GrammarCompiler& GrammarCache::compiler() {
  const std::lock_guard lock(mutex_);
  if (!compiler_) compiler_.emplace(tokenizer_, vocabulary_, end_tokens_, kept_tokens_);
  return *compiler_;
}

std::shared_ptr<const CompiledGrammar> GrammarCache::get(const AnswerFormat& format) {
  const auto find = [&] {
    const auto found = std::ranges::find(kept_, format, [](const auto& entry) { return entry.first; });
    if (found != kept_.end()) kept_.splice(kept_.begin(), kept_, found);
    return found != kept_.end();
  };
  {
    const std::lock_guard lock(mutex_);
    if (find()) return kept_.front().second;
  }
  // Outside the lock: a slow schema holds up nobody else's.
  auto grammar = compile(compiler(), format);
  const std::lock_guard lock(mutex_);
  if (find()) return kept_.front().second;
  kept_.emplace_front(format, std::move(grammar));
  if (kept_.size() > kKept) kept_.pop_back();
  return kept_.front().second;
}

}  // namespace edgewise
