#include <unistd.h>

#include "base/error.h"
#include "base/process.h"
#include "cli/build_flags.h"
#include "cli/command.h"
#include "cli/draft_flags.h"
#include "cli/pipeline.h"
#include "serve/server.h"

namespace edgewise {
namespace {

struct ServeFlags {
  std::string model;
  std::filesystem::path cache_dir = default_cache_dir();
  BuildFlags build;
  ServeOptions options;
  int threads = 0;
  int max_body_mb = 8;
  int reply_timeout = 600;
  int grace = 30;
  int64_t lora_idle_seconds = 300;
  int max_loras = 0;
  std::vector<std::string> adapters;
  DraftFlags draft;
};

// "out/engine/" is served as "engine".
std::string last_name(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return std::filesystem::path(path).filename().string();
}

void load_adapters(Session& session, const ServeFlags& flags) {
  for (const std::string& adapter : flags.adapters) {
    const size_t equals = adapter.find('=');
    if (equals == std::string::npos) usage_error("--lora {}: expected NAME=DIRECTORY", adapter);
    const std::string name = adapter.substr(0, equals);
    if (name == flags.options.model) usage_error("--lora {}: the model itself is called {}", adapter, name);
    load_adapter(session, name, adapter.substr(equals + 1));
  }
}

// Until it is told to end, or the device fails: then with true where a new engine is worth a try, which only a new
// program can make on a GPU (docs/cuda.md). An engine that failed before it answered anything would fail again.
bool serve_until_fault(const ServeFlags& flags, const std::filesystem::path& engine, const SessionOptions& options) {
  Session session(engine, options);
  load_adapters(session, flags);
  ApiServer server(session, flags.options);
  fmt::print(stderr, "serving {} at http://{}:{}/v1 ({} answers side by side); Ctrl-C or SIGTERM ends it\n",
             flags.options.model, flags.options.host, server.port(), session.info().max_batch_size);
  server.run();
  const std::string fault = session.executable().fault();
  if (fault.empty()) return false;
  if (!server.has_answered() || server.told_to_end()) fail(ErrorKind::kIo, "{}", fault);
  fmt::print(stderr, "error: {}; starting anew\n", fault);
  return true;
}

int serve(ServeFlags& flags) {
  ServeOptions& options = flags.options;
  if (options.model.empty()) options.model = last_name(flags.model);
  if (options.port < 0 || options.port > 65535) usage_error("--port {}: expected 0 to 65535", options.port);
  if (options.max_waiting < 1 || flags.max_body_mb < 1 || flags.reply_timeout < 1 || flags.grace < 0) {
    usage_error("--max_waiting, --max_body_mb and --reply_timeout must be positive, --grace not negative");
  }
  if (const char* key = std::getenv("EDGEWISE_API_KEY"); options.api_key.empty() && key != nullptr)
    options.api_key = key;
  options.http.max_body = static_cast<size_t>(flags.max_body_mb) << 20;
  options.http.reply_timeout = std::chrono::seconds(flags.reply_timeout);
  options.grace = std::chrono::seconds(flags.grace);
  const auto engine = ensure_engine(flags.model, flags.cache_dir, flags.build.take());
  SessionOptions session_options{.threads = flags.threads, .protect_decoding = true};
  session_options.adapters = {std::chrono::seconds(flags.lora_idle_seconds), flags.max_loras};
  flags.draft.apply(engine, session_options);
  if (options.host != "127.0.0.1" && options.host != "localhost" && options.host != "::1" && options.api_key.empty()) {
    fmt::print(stderr, "warning: anyone who reaches {} may use this server; --api_key asks for a key\n", options.host);
  }
  if (serve_until_fault(flags, engine, session_options)) restart_process();
  fmt::print(stderr, "stopped\n");
  return 0;
}

}  // namespace

void add_serve(Commands& commands) {
  CLI::App& command =
      commands.add("serve", "answer OpenAI API requests over HTTP",
                   "edgewise serve models/edge-tiny-16m --maxBatchSize 16 --kvCachePolicy paged --port 8000");
  auto flags = std::make_shared<ServeFlags>();
  command.add_option("model", flags->model, "checkpoint, ONNX or engine directory, recipe, or a hub name")->required();
  add_flag(command, "host", flags->options.host, "address to listen on; only this machine unless told");
  add_flag(command, "port", flags->options.port, "0: any free one");
  add_flag(command, "model_name", flags->options.model, "what clients call the model (default: the directory's name)");
  command.add_option("--lora", flags->adapters, "NAME=DIRECTORY of a PEFT adapter, served as a model of that name")
      ->allow_extra_args(false);
  command.add_flag(both_spellings("lora_updates"), flags->options.lora_updates,
                   "let clients load and unload adapters (POST /v1/load_lora_adapter, /v1/unload_lora_adapter)");
  add_flag(command, "lora_idle_seconds", flags->lora_idle_seconds,
           "adapters unused for so long leave memory until a request names them (0: never)");
  add_flag(command, "max_loras", flags->max_loras,
           "adapters in memory, where answers under way do not use more (0: any number)");
  add_flag(command, "api_key", flags->options.api_key, "key that clients must send (also from EDGEWISE_API_KEY)");
  add_flag(command, "max_waiting", flags->options.max_waiting, "requests in the queue; more are refused with 429");
  add_flag(command, "max_connections", flags->options.http.max_open_replies,
           "requests under way; more are refused with 503");
  add_flag(command, "max_body_mb", flags->max_body_mb, "largest request");
  add_flag(command, "reply_timeout", flags->reply_timeout, "seconds an answer may take");
  add_flag(command, "grace", flags->grace, "seconds for answers under way when the server is told to end");
  add_flag(command, "cache_dir", flags->cache_dir, "where exported and built stages are kept");
  add_draft_flags(command, flags->draft, HeadDefault::kOn);
  add_flag(command, "threads", flags->threads, "CPU threads (0: all cores)");
  add_build_flags(command, flags->build);
  commands.on_run(command, [flags] { return serve(*flags); });
}

}  // namespace edgewise
