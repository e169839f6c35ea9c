#include "cli/chat.h"

#include "base/error.h"
#include "base/progress.h"
#include "cli/line_editor.h"
#include "runtime/request_fields.h"

namespace edgewise {
namespace {

class Chat {
 public:
  Chat(Session& session, Conversation& conversation, std::filesystem::path session_file)
      : session_(session), conversation_(conversation), session_file_(std::move(session_file)) {}
  // False: leave.
  bool answer(const std::string& line);

 private:
  struct Command {
    std::string_view name;
    std::string_view argument;
    std::string_view what;
    void (Chat::*run)(const std::string& argument);
  };
  static const Command kCommands[];

  void help(const std::string&);
  void clear(const std::string&) { conversation_.clear(); }
  void system(const std::string& text) { conversation_.set_system(text); }
  void set(const std::string& text);
  void retry(const std::string&);
  void undo(const std::string&);
  void stats(const std::string&);
  void save(const std::string& file);
  void load(const std::string& file);
  void exit(const std::string&) { leave_ = true; }

  OrderedJson settings() const;
  std::filesystem::path file_named(const std::string& name) const;
  void ask(const std::string& text);

  Session& session_;
  Conversation& conversation_;
  std::filesystem::path session_file_;
  Completion last_;
  bool leave_ = false;
};

constexpr Chat::Command Chat::kCommands[] = {
    {"/help", "", "these commands", &Chat::help},
    {"/clear", "", "forget the conversation, but not the system prompt", &Chat::clear},
    {"/system", "TEXT", "replace the system prompt", &Chat::system},
    {"/set", "NAME VALUE", "a sampling option, as temperature 0.7; alone: what they are", &Chat::set},
    {"/retry", "", "answer the last question again", &Chat::retry},
    {"/undo", "", "take back the last question and its answer", &Chat::undo},
    {"/stats", "", "the last answer's speed, and how full the context is", &Chat::stats},
    {"/save", "FILE", "keep conversation and cache in a file; without FILE in that of --session", &Chat::save},
    {"/load", "FILE", "go on from a saved file", &Chat::load},
    {"/exit", "", "leave, as Ctrl-D does", &Chat::exit},
};

bool Chat::answer(const std::string& line) {
  if (line.empty()) return true;
  try {
    if (line[0] != '/') {
      ask(line);
      return true;
    }
    const size_t space = line.find(' ');
    const size_t argument = line.find_first_not_of(' ', space);
    for (const Command& command : kCommands) {
      if (command.name != std::string_view(line).substr(0, space)) continue;
      (this->*command.run)(argument == std::string::npos ? "" : line.substr(argument));
      return !leave_;
    }
    usage_error("unknown command {}; /help lists them", line.substr(0, space));
  } catch (const Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
  }
  return true;
}

void Chat::ask(const std::string& text) { last_ = conversation_.ask(text); }

void Chat::help(const std::string&) {
  for (const Command& command : kCommands) {
    fmt::print(stderr, "  {:<19} {}\n", fmt::format("{} {}", command.name, command.argument), command.what);
  }
  fmt::print(stderr, "  Ctrl-C stops an answer; on an empty line it leaves.\n");
}

OrderedJson Chat::settings() const {
  const SamplingOptions& s = conversation_.request.sampling;
  OrderedJson result = {{"max_tokens", conversation_.request.max_tokens},
                        {"temperature", s.temperature},
                        {"top_p", s.top_p},
                        {"top_k", s.top_k},
                        {"min_p", s.min_p},
                        {"repetition_penalty", s.repetition_penalty},
                        {"presence_penalty", s.presence_penalty},
                        {"frequency_penalty", s.frequency_penalty}};
  result["seed"] = s.seed ? OrderedJson(*s.seed) : OrderedJson("random");
  return result;
}

void Chat::set(const std::string& text) {
  const size_t space = text.find(' ');
  const std::string name = text.substr(0, space);
  const OrderedJson known = settings();
  if (name.empty()) {
    for (const auto& [key, value] : known.items()) fmt::print(stderr, "  {:<19} {}\n", key, value.dump());
    return;
  }
  if (!known.contains(name)) usage_error("/set {}: no such option; /set lists them", name);
  if (space == std::string::npos) usage_error("/set {}: its value is missing", name);
  Json object = Json::object();
  object[name] = parse_json(text.substr(space + 1), "/set " + name);
  const JsonView view(object, "/set");
  SamplingOptions sampling = conversation_.request.sampling;
  read_sampling(view, sampling);
  sampling.check(session_.vocabulary());
  const int max_tokens = int_field(view, "max_tokens", conversation_.request.max_tokens);
  if (max_tokens < 1) usage_error("/set max_tokens {}: expected a positive number", max_tokens);
  conversation_.request.sampling = sampling;
  conversation_.request.max_tokens = max_tokens;
}

void Chat::retry(const std::string&) {
  const std::string question = conversation_.undo();
  if (question.empty()) usage_error("/retry: nothing has been asked");
  ask(question);
}

void Chat::undo(const std::string&) {
  if (conversation_.undo().empty()) usage_error("/undo: nothing has been asked");
}

void Chat::stats(const std::string&) {
  if (last_.prompt_tokens > 0) fmt::print(stderr, "{}\n", speed_text(last_));
  fmt::print(stderr, "[{} messages, {} of {} tokens of context]\n", conversation_.messages(),
             conversation_.tokens().size(), session_.info().kv_capacity);
}

std::filesystem::path Chat::file_named(const std::string& name) const {
  if (name.empty() && session_file_.empty()) usage_error("no file given, and none with --session");
  return name.empty() ? session_file_ : std::filesystem::path(name);
}

void Chat::save(const std::string& file) { conversation_.save(file_named(file)); }
void Chat::load(const std::string& file) { conversation_.load(file_named(file)); }

}  // namespace

int chat(Session& session, Conversation& conversation, const std::filesystem::path& session_file, bool quiet) {
  if (!quiet) fmt::print(stderr, "Chat with {}. /help lists the commands.\n", session.info().model);
  if (conversation.messages() > 0 && !quiet) fmt::print(stderr, "[{} messages so far]\n", conversation.messages());
  LineEditor editor("> ");
  Chat chat(session, conversation, session_file);
  check_interrupted();
  while (true) {
    const auto line = editor.read();
    if (!line) {
      fmt::print(stderr, "\n");
      break;
    }
    if (!chat.answer(*line)) break;
  }
  if (!session_file.empty()) conversation.save(session_file);
  return interrupted() ? 130 : 0;
}

}  // namespace edgewise
