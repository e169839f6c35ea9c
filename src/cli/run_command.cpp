#include <unistd.h>

#include "base/error.h"
#include "base/mapped_file.h"
#include "base/progress.h"
#include "cli/build_flags.h"
#include "cli/chat.h"
#include "cli/command.h"
#include "cli/draft_flags.h"
#include "cli/pipeline.h"
#include "cli/standard_input.h"

namespace edgewise {
namespace {

struct RunFlags {
  DraftFlags draft;
  std::string model;
  std::string prompt;
  std::string system;
  std::string lora;
  std::filesystem::path session;
  std::filesystem::path cache_dir = default_cache_dir();
  bool raw = false;
  bool quiet = false;
  int max_tokens = 512;
  int threads = 0;
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<int> top_k;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
  std::optional<uint64_t> seed;
  std::string json_schema;  // files
  std::string grammar;
  std::string regex;
  BuildFlags build;
};

SamplingOptions sampling(const RunFlags& flags, const Session& session) {
  SamplingOptions options = session.recommended_sampling();
  if (flags.temperature) options.temperature = *flags.temperature;
  if (flags.top_p) options.top_p = *flags.top_p;
  if (flags.top_k) options.top_k = *flags.top_k;
  if (flags.min_p) options.min_p = *flags.min_p;
  if (flags.repetition_penalty) options.repetition_penalty = *flags.repetition_penalty;
  options.seed = flags.seed;
  return options;
}

std::optional<AnswerFormat> answer_format(const RunFlags& flags) {
  if (!flags.regex.empty()) return AnswerFormat{AnswerForm::kRegex, flags.regex};
  if (!flags.json_schema.empty()) return AnswerFormat{AnswerForm::kJsonSchema, read_text_file(flags.json_schema)};
  if (!flags.grammar.empty()) return AnswerFormat{AnswerForm::kEbnf, read_text_file(flags.grammar)};
  return std::nullopt;
}

// All but the prompt.
Request request(const RunFlags& flags, const Session& session) {
  Request result;
  result.sampling = sampling(flags, session);
  result.max_tokens = flags.max_tokens;
  result.adapter = flags.lora;
  if (const auto format = answer_format(flags)) result.grammar = session.grammar(*format);
  return result;
}

int answer_raw(Session& session, const RunFlags& flags, const std::string& prompt) {
  if (!flags.session.empty())
    usage_error("--session keeps a conversation; leave out --raw, and take a model that chats");
  Request raw = request(flags, session);
  raw.prompt = session.encode_text(prompt);
  const Completion completion = stream_answer(session, raw);
  if (!flags.quiet) fmt::print(stderr, "{}\n", speed_text(completion));
  return interrupted() ? 130 : 0;
}

Conversation converse(Session& session, const RunFlags& flags) {
  Conversation conversation(session, request(flags, session));
  if (!flags.session.empty() && std::filesystem::exists(flags.session)) conversation.load(flags.session);
  if (!flags.system.empty()) conversation.set_system(flags.system);
  return conversation;
}

int answer_once(Session& session, const RunFlags& flags, const std::string& prompt) {
  if (flags.raw || !session.has_chat_template()) return answer_raw(session, flags, prompt);
  Conversation conversation = converse(session, flags);
  const Completion completion = conversation.ask(prompt);
  if (!flags.quiet) fmt::print(stderr, "{}\n", speed_text(completion));
  if (!flags.session.empty()) conversation.save(flags.session);
  return interrupted() ? 130 : 0;
}

int run(const RunFlags& flags) {
  const auto engine = ensure_engine(flags.model, flags.cache_dir, flags.build.take());
  SessionOptions options{.threads = flags.threads};
  flags.draft.apply(engine, options);
  Session session(engine, options);
  if (!flags.lora.empty()) load_adapter(session, flags.lora, flags.lora);
  if (!flags.prompt.empty()) return answer_once(session, flags, flags.prompt);
  if (::isatty(STDIN_FILENO) != 0) {
    Conversation conversation = converse(session, flags);
    return chat(session, conversation, flags.session, flags.quiet);
  }
  std::string text = read_standard_input();
  while (!text.empty() && text.back() == '\n') text.pop_back();
  if (text.empty()) usage_error("the prompt on standard input is empty");
  return answer_once(session, flags, text);
}

}  // namespace

void add_run(Commands& commands) {
  CLI::App& command = commands.add("run", "answer a prompt, or chat, with a checkpoint, ONNX or engine directory",
                                   "edgewise run models/edge-tiny-16m \"What is machine learning?\"");
  auto flags = std::make_shared<RunFlags>();
  command.add_option("model", flags->model, "checkpoint, ONNX or engine directory, or a hub name")->required();
  command.add_option("prompt", flags->prompt, "the prompt; else standard input, else an interactive chat");
  add_flag(command, "system", flags->system, "system prompt");
  add_flag(command, "lora", flags->lora, "directory of a PEFT adapter to answer with");
  command.add_option("--session", flags->session,
                     "a file that keeps the conversation and its cache: read if it is there, written at the end");
  add_flag(command, "max_tokens", flags->max_tokens, "longest answer");
  add_draft_flags(command, flags->draft, HeadDefault::kOn);
  command.add_option(both_spellings("temperature"), flags->temperature,
                     "0 is greedy (default: the model's recommendation)");
  command.add_option(both_spellings("top_p"), flags->top_p, "nucleus sampling");
  command.add_option(both_spellings("top_k"), flags->top_k, "sample from the k best tokens");
  command.add_option(both_spellings("min_p"), flags->min_p,
                     "drop tokens below this share of the best one's probability");
  command.add_option(both_spellings("repetition_penalty"), flags->repetition_penalty, "above 1 discourages repetition");
  command.add_option("--seed", flags->seed, "the same seed gives the same answer");
  auto* forms = command.add_option_group("form of the answer")->require_option(0, 1);
  forms->add_option(both_spellings("json_schema"), flags->json_schema, "file with the JSON schema it satisfies");
  forms->add_option("--regex", flags->regex, "regular expression that matches all of it");
  forms->add_option("--grammar", flags->grammar, "file with a grammar (EBNF, like GBNF) it belongs to");
  command.add_flag("--raw", flags->raw, "no chat template: continue the prompt as text");
  command.add_flag("--quiet", flags->quiet, "print the answer only");
  add_flag(command, "threads", flags->threads, "CPU threads (0: all cores)");
  add_flag(command, "cache_dir", flags->cache_dir, "where exported and built stages are kept");
  add_build_flags(command, flags->build);
  commands.on_run(command, [flags] { return run(*flags); });
}

}  // namespace edgewise
