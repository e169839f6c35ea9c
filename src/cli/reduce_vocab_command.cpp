#include "base/error.h"
#include "cli/command.h"
#include "hub/hub.h"
#include "quantize/reduce_vocab.h"

namespace edgewise {
namespace {

int reduce_vocab(const ReduceVocabRequest& request) {
  const ReduceVocabReport report = reduce_vocabulary(request);
  fmt::print("kept {} of {} tokens in {}: {} protected; the dataset has {} different ones\n", report.kept,
             report.vocabulary, request.output_dir.string(), report.protected_tokens, report.seen);
  for (const Coverage& c : report.coverage) {
    const auto share = [](int64_t part, int64_t whole) {
      return whole == 0 ? 0.0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole);
    };
    fmt::print("covers {:.2f}% of {} tokens of {}; {:.1f}% of {} answers or lines whole\n", share(c.covered, c.tokens),
               c.tokens, c.source, share(c.complete, c.answers), c.answers);
  }
  return 0;
}

}  // namespace

void add_reduce_vocab(Commands& commands) {
  CLI::App& command = commands.add(
      "reduce-vocab", "choose the tokens that a task needs; export then leaves out the logits of the others",
      "edgewise reduce-vocab --model_dir models/edge-tiny-16m --output_dir out/vocab --reduced_vocab_size "
      "2048 --dataset chats.jsonl --method input_aware");
  struct Flags {
    std::string model;
    ReduceVocabRequest request;
  };
  auto flags = std::make_shared<Flags>();
  ReduceVocabRequest& request = flags->request;
  add_flag(command, "model_dir", flags->model, "checkpoint directory or hub name")->required();
  add_flag(command, "output_dir", request.output_dir, "directory to write")->required();
  add_flag(command, "reduced_vocab_size", request.size, "tokens to keep")->required();
  add_flag(command, "method", request.method,
           "frequency: what the text has most; input_aware: first what answers say and their prompts do not");
  add_flag(command, "dataset", request.dataset,
           "JSON lines with \"messages\" or \"text\", or plain text (default: built-in chats)");
  add_flag(command, "max_samples", request.max_samples, "lines of the dataset to read");
  add_flag(command, "coverage_text", request.coverage_text, "another text, in the same forms, to report on");
  commands.on_run(command, [flags] {
    flags->request.model_dir = resolve_model(flags->model);
    return reduce_vocab(flags->request);
  });
}

}  // namespace edgewise
