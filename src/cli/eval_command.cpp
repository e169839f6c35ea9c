#include <iostream>

#include "base/error.h"
#include "base/mapped_file.h"
#include "bench/quality.h"
#include "cli/command.h"
#include "cli/pipeline.h"

namespace edgewise {
namespace {

struct EvalFlags {
  std::string engine;
  std::string against;
  std::filesystem::path text;
  std::filesystem::path cache_dir = default_cache_dir();
  int context = 1024;
  int64_t max_chars = 0;
  bool json = false;
};

// Cut to whole characters, as Python counts them.
std::string first_characters(std::string text, int64_t count) {
  size_t at = 0;
  for (int64_t i = 0; i < count && at < text.size(); ++i) {
    ++at;
    while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) ++at;
  }
  text.resize(at);
  return text;
}

int eval(const EvalFlags& flags) {
  std::string text = read_text_file(flags.text);
  if (flags.max_chars > 0) text = first_characters(std::move(text), flags.max_chars);
  BuildOptions limits;
  limits.kv_capacity = std::max(limits.kv_capacity, flags.context);
  const SessionOptions options{.max_step_tokens = 256, .all_logits = true, .share_prefixes = false};
  Session session(ensure_engine(flags.engine, flags.cache_dir, limits), options);
  const Perplexity p = measure_perplexity(session, text, flags.context);
  Json report = {{"engine", flags.engine},     {"text", flags.text.string()},         {"context", flags.context},
                 {"tokens", p.tokens},         {"scored_tokens", p.scored},           {"bytes", p.bytes},
                 {"perplexity", p.perplexity}, {"byte_perplexity", p.byte_perplexity}};
  std::string line = fmt::format("perplexity {:.4f} a token, {:.4f} a byte ({} tokens, context {})", p.perplexity,
                                 p.byte_perplexity, p.tokens, flags.context);
  if (!flags.against.empty()) {
    Session baseline(ensure_engine(flags.against, flags.cache_dir, limits), options);
    const Agreement a = measure_agreement(session, baseline, text, flags.context);
    report["against"] = {{"engine", flags.against},  {"kl", a.kl},
                         {"top1", a.top1},           {"bleu", a.bleu},
                         {"positions", a.positions}, {"continuations", a.continuations}};
    line += fmt::format("; against {}: KL {:.5f}, top-1 agreement {:.2f}%, BLEU {:.1f}", flags.against, a.kl,
                        a.top1 * 100, a.bleu);
  }
  fmt::print("{}\n", flags.json ? report.dump(2) : line);
  return 0;
}

}  // namespace

void add_eval(Commands& commands) {
  CLI::App& command =
      commands.add("eval", "perplexity of a text, and distance from another engine",
                   "edgewise eval --engine out/engine --text text.txt --context 1024 --against out/bf16-engine");
  auto flags = std::make_shared<EvalFlags>();
  add_flag(command, "engine", flags->engine, "engine, ONNX or checkpoint directory")->required();
  add_flag(command, "text", flags->text, "UTF-8 text file")->required();
  add_flag(command, "context", flags->context, "tokens of a window; windows do not overlap");
  add_flag(command, "against", flags->against,
           "engine to compare with: KL divergence, top-1 agreement, BLEU of greedy continuations");
  add_flag(command, "max_chars", flags->max_chars, "use the first N characters only (0: all)");
  add_flag(command, "cache_dir", flags->cache_dir, "where exported and built stages are kept");
  command.add_flag("--json", flags->json, "print JSON");
  commands.on_run(command, [flags] { return eval(*flags); });
}

}  // namespace edgewise
