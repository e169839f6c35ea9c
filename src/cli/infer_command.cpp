#include "base/error.h"
#include "base/mapped_file.h"
#include "base/output_file.h"
#include "cli/command.h"
#include "cli/draft_flags.h"
#include "cli/pipeline.h"
#include "cli/request_file.h"

namespace edgewise {
namespace {

struct InferFlags {
  std::filesystem::path engine;
  std::filesystem::path input;
  std::filesystem::path output;
  std::filesystem::path profile;
  bool dump_profile = false;
  int warmup = 0;
  int threads = 0;
  DraftFlags draft;
};

// Seconds by operator kind and by node, the slowest first.
OrderedJson profile_document(const Session& session, const std::vector<double>& seconds) {
  std::map<std::string, double> by_kind;
  std::vector<std::pair<double, const Node*>> nodes;
  double total = 0;
  for (size_t i = 0; i < seconds.size(); ++i) {
    const Node& node = session.graph().nodes()[i];
    by_kind[std::string(op_name(node.op))] += seconds[i];
    nodes.emplace_back(seconds[i], &node);
    total += seconds[i];
  }
  std::sort(nodes.begin(), nodes.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  OrderedJson list = OrderedJson::array();
  for (const auto& [time, node] : nodes) {
    list.push_back(
        {{"name", node->name}, {"operator", op_name(node->op)}, {"ms", time * 1e3}, {"share", time / total}});
  }
  OrderedJson result = {{"total_ms", total * 1e3}, {"ms_by_operator", by_kind}, {"nodes", list}};
  if (session.speculates()) result["speculation"] = to_json(session.scheduler().speculation());
  return result;
}

// An adapter that does not load spoils the requests that ask for it.
void load_adapters(Session& session, RequestFile& file) {
  for (const auto& [name, path] : file.adapters) {
    try {
      load_adapter(session, name, path);
    } catch (const Error& error) {
      for (FileRequest& entry : file.requests) {
        if (entry.request.adapter == name && entry.error.empty()) entry.error = error.what();
      }
    }
  }
}

int infer(const InferFlags& flags) {
  if (flags.dump_profile && flags.profile.empty()) usage_error("--dumpProfile needs --profileOutputFile");
  SessionOptions options{.threads = flags.threads, .profile = flags.dump_profile};
  flags.draft.apply(flags.engine, options);
  Session session(flags.engine, options);
  RequestFile file = parse_request_file(read_text_file(flags.input), flags.input.string(), session);
  if (file.batch_size > session.info().max_batch_size) {
    fmt::print(stderr, "note: batch_size {} is above the engine's {}; requests beyond it wait for a slot\n",
               file.batch_size, session.info().max_batch_size);
  }
  load_adapters(session, file);
  std::vector<Request> requests;
  for (const FileRequest& entry : file.requests) {
    if (entry.error.empty()) requests.push_back(entry.request);
  }
  for (int i = 0; i < flags.warmup && !requests.empty(); ++i) session.generate(std::vector{requests.front()});
  session.executable().take_profile();
  const auto completions = session.generate(requests);
  const OrderedJson document = response_document(file, completions);
  write_text_file(flags.output, document.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n");
  if (flags.dump_profile) {
    write_text_file(flags.profile, profile_document(session, session.executable().take_profile()).dump(2) + "\n");
  }
  if (std::ranges::any_of(completions, &Completion::gave_up_drafting)) fmt::print(stderr, "{}", kGaveUpWarning);
  int failed = 0;
  for (const auto& response : document.at("responses")) failed += response.contains("error") ? 1 : 0;
  fmt::print("answered {} of {} requests into {}\n", document.at("responses").size() - static_cast<size_t>(failed),
             document.at("responses").size(), flags.output.string());
  return 0;
}

}  // namespace

void add_infer(Commands& commands) {
  CLI::App& command =
      commands.add("infer", "answer the requests of a file",
                   "edgewise infer --engineDir out/engine --inputFile input.json --outputFile output.json");
  auto flags = std::make_shared<InferFlags>();
  add_flag(command, "engineDir", flags->engine, "engine directory")->required();
  add_flag(command, "inputFile", flags->input, "requests, JSON")->required();
  add_flag(command, "outputFile", flags->output, "responses, JSON")->required();
  command.add_flag(both_spellings("dumpProfile"), flags->dump_profile, "time every operator");
  add_flag(command, "profileOutputFile", flags->profile, "where --dumpProfile writes, JSON");
  add_flag(command, "warmup", flags->warmup, "answers of the first request that are thrown away beforehand");
  add_draft_flags(command, flags->draft, HeadDefault::kOff);
  add_flag(command, "threads", flags->threads, "CPU threads (0: all cores)");
  commands.on_run(command, [flags] { return infer(*flags); });
}

}  // namespace edgewise
