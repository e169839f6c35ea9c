// Feeds arbitrary bytes as a schema, a regular expression or a grammar text, by the first byte, and follows a few
// tokens.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "grammar/constraint.h"
#include "text/tokenizer.h"

namespace {

// One token a byte, and some that cross JSON's terminals.
edgewise::GrammarCompiler make_compiler() {
  edgewise::Json vocabulary = edgewise::Json::object();
  const auto add = [&](const std::string& token) { vocabulary[token] = vocabulary.size(); };
  for (int byte = 0; byte < 256; ++byte) add(fmt::format("<0x{:02X}>", byte));
  for (const char* token : {"{\"", "\":", "\": \"", "\",", "\"}", "true", "null", "ab", "abc", "12", " a", "\n  "})
    add(token);
  const edgewise::Json file = {{"version", "1.0"},
                               {"decoder", {{"type", "ByteFallback"}}},
                               {"model", {{"type", "WordLevel"}, {"unk_token", "ab"}, {"vocab", vocabulary}}}};
  const auto tokenizer = edgewise::Tokenizer::parse(file.dump(), "fuzz.json");
  return {tokenizer, tokenizer.vocab_size() + 1, {tokenizer.vocab_size()}};
}

std::shared_ptr<const edgewise::CompiledGrammar> compile(const edgewise::GrammarCompiler& compiler, uint8_t kind,
                                                         std::string_view text) {
  if (kind % 3 == 0) return compiler.compile_json_schema_text(text);
  return kind % 3 == 1 ? compiler.compile_regex(text) : compiler.compile_ebnf(text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const edgewise::GrammarCompiler compiler = make_compiler();
  if (size == 0) return 0;
  try {
    const auto grammar = compile(compiler, data[0], {reinterpret_cast<const char*>(data) + 1, size - 1});
    edgewise::ConstraintState state(grammar);
    std::vector<uint64_t> bits(grammar->mask_words());
    for (int step = 0; step < 20 && state.fill_mask(bits); ++step) {
      int32_t token = static_cast<int32_t>(data[step % size]) % grammar->vocabulary_size();
      while ((bits[token >> 6] >> (token & 63) & 1) == 0) token = (token + 1) % grammar->vocabulary_size();
      if (!state.accept(token)) __builtin_trap();
    }
    state.rollback(3);
    state.forced_bytes();
  } catch (const edgewise::Error& error) {
    if (error.kind() != edgewise::ErrorKind::kUsage) __builtin_trap();
  }
  return 0;
}
