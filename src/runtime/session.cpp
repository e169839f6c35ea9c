#include "runtime/session.h"

#include <algorithm>

#include "base/error.h"
#include "base/progress.h"

namespace edgewise {
namespace fs = std::filesystem;
namespace {

Tokenizer load_tokenizer(const fs::path& engine_dir) {
  if (!fs::exists(engine_dir / "tokenizer.json")) {
    fail(ErrorKind::kIo, "{}: no tokenizer.json; the engine was built from a model without one", engine_dir.string());
  }
  return Tokenizer::load(engine_dir / "tokenizer.json");
}

std::unique_ptr<Engine> load_engine(const fs::path& engine_dir) {
  const fs::path file = engine_dir / kEngineFileName;
  if (!fs::exists(file)) {
    fail(ErrorKind::kIo, "{}: no {}; build one with `edgewise build --onnxDir ONNX --engineDir {}`",
         engine_dir.string(), kEngineFileName, engine_dir.string());
  }
  auto engine = std::make_unique<Engine>(read_engine(file));
  const Backend& backend = find_backend(engine->info.device);
  if (backend.layout() != engine->info.layout) {
    bad_file("{}: its weights have the layout {}, this program's {} backend reads {}; build the engine again",
             file.string(), engine->info.layout, engine->info.device, backend.layout());
  }
  return engine;
}

}  // namespace

Session::Session(const fs::path& engine_dir, const SessionOptions& options)
    : engine_(load_engine(engine_dir)),
      tokenizer_(load_tokenizer(engine_dir)),
      chat_template_(load_chat_template(engine_dir)) {
  const EngineInfo& info = engine_->info;
  if (options.draft_tokens < 0 || options.draft_tokens > kMostDraftTokens) {
    usage_error("--prompt_lookup {}: expected 0 to {}", options.draft_tokens, kMostDraftTokens);
  }
  vocabulary_ = engine_->graph.value(engine_->graph.outputs().at(0)).shape.at(1);
  const int pages_each = (info.kv_capacity + kPageTokens - 1) / kPageTokens;
  limits_.vocabulary = vocabulary_;
  limits_.max_sequences = info.max_batch_size;
  const int rows = info.max_batch_size * (options.draft_tokens + 1);  // of decoding sequences, with logits
  limits_.max_step_tokens = std::max(rows, std::min(options.max_step_tokens, info.max_input_length));
  limits_.kv_capacity = info.kv_capacity;
  limits_.kv_pages = pages_each * info.max_batch_size;
  limits_.reserve_whole = info.kv_policy == "linear";
  limits_.draft_tokens = options.draft_tokens;
  limits_.max_waiting = options.max_waiting;
  limits_.share_prefixes = options.share_prefixes;
  limits_.protect_decoding = options.protect_decoding;
  executable_ = find_backend(info.device)
                    .load(engine_->graph, {.max_tokens = limits_.max_step_tokens,
                                           .max_sequences = info.max_batch_size,
                                           .max_rows = options.all_logits ? limits_.max_step_tokens : rows,
                                           .kv_pages = limits_.kv_pages,
                                           .kv_dtype = info.kv_dtype,
                                           .threads = options.threads});
  executable_->set_profiling(options.profile);
  read_generation_config(engine_dir);
  scheduler_ = std::make_unique<Scheduler>(*executable_, limits_, end_tokens_);
}

void Session::read_generation_config(const fs::path& engine_dir) {
  const auto add_end_tokens = [&](const JsonView& config) {
    if (!config.has("eos_token_id")) return;
    const Json& ids = config.at("eos_token_id").value();
    for (const Json& id : ids.is_array() ? ids : Json::array({ids})) {
      if (id.is_number_integer()) end_tokens_.push_back(id.get<int32_t>());
    }
  };
  for (const char* name : {"generation_config.json", "config.json"}) {
    if (!fs::exists(engine_dir / name)) continue;
    const Json document = read_json_file(engine_dir / name);
    const JsonView config(document, (engine_dir / name).string());
    if (end_tokens_.empty()) add_end_tokens(config);
    if (config.boolean("do_sample", false)) {
      recommended_.temperature = config.number("temperature", 1.0);
      recommended_.top_p = config.number("top_p", 1.0);
      recommended_.top_k = static_cast<int>(config.integer("top_k", 50));
      recommended_.min_p = config.number("min_p", 0.0);
      recommended_.repetition_penalty = config.number("repetition_penalty", 1.0);
    }
  }
}

std::vector<int32_t> Session::encode_chat(const OrderedJson& messages) const {
  if (!chat_template_) {
    usage_error(
        "this model has no chat template; give the prompt as plain text (--raw, or \"apply_chat_template\": false)");
  }
  OrderedJson inputs = chat_template_->special_tokens;
  inputs["messages"] = messages;
  inputs["add_generation_prompt"] = true;
  return tokenizer_.encode(chat_template_->chat_template.render(inputs), false);
}

std::vector<int32_t> Session::encode_text(std::string_view text) const { return tokenizer_.encode(text, true); }

void Session::check(const Request& request) const {
  if (request.prompt.empty()) usage_error("the prompt is empty");
  const auto length = static_cast<int>(request.prompt.size());
  if (length > info().max_input_length) {
    usage_error("the prompt has {} tokens, the engine takes {}; shorten it or build with --maxInputLen {}", length,
                info().max_input_length, length);
  }
  if (length >= info().kv_capacity) {
    usage_error(
        "the prompt has {} tokens and the cache {}: no room for an answer; build with a larger "
        "--maxKVCacheCapacity",
        length, info().kv_capacity);
  }
  if (request.max_tokens < 1) usage_error("max_tokens = {}: expected a positive number", request.max_tokens);
  for (const int32_t token : request.prompt) {
    if (token < 0 || token >= vocabulary_) {
      usage_error(
          "the prompt holds token {}, the model's vocabulary ends at {}; do tokenizer and model belong together?",
          token, vocabulary_ - 1);
    }
  }
  request.sampling.check(vocabulary_);
}

std::unique_ptr<Generation> Session::prepare(const Request& request, ProgressCallback callback) const {
  check(request);
  const int room = info().kv_capacity - static_cast<int>(request.prompt.size());
  return std::make_unique<Generation>(request, std::min(request.max_tokens, room), vocabulary_, tokenizer_,
                                      std::move(callback));
}

void Session::begin(Generation& generation) {
  active_.reserve(active_.size() + 1);  // nothing fails behind submit()
  if (!scheduler_->submit(generation.sequence())) {
    fail(ErrorKind::kBusy, "{} requests wait already; try again later", scheduler_->waiting());
  }
  active_.push_back(&generation);
}

StepOutcome Session::step() {
  const StepOutcome outcome = scheduler_->step();
  for (Generation* generation : active_) {
    const FinishReason leave = generation->collect(outcome);
    if (leave == FinishReason::kNone) continue;
    scheduler_->cancel(generation->sequence(), leave);
    generation->collect();
  }
  std::erase_if(active_, [](const Generation* generation) { return generation->done(); });
  return outcome;
}

void Session::cancel(Generation& generation) {
  scheduler_->cancel(generation.sequence());
  generation.collect();
  std::erase(active_, &generation);
}

CacheOwner Session::cache_owner() const {
  return {info().model, engine_->fingerprint, info().kv_dtype, vocabulary_, {}, -1};
}

void Session::save(const fs::path& file, std::span<const int32_t> tokens, const OrderedJson& messages) {
  write_session_file(file, cache_owner(), tokens, messages, scheduler_->cache(), *executable_);
}

OrderedJson Session::load(const fs::path& file) {
  return read_session_file(file, cache_owner(), scheduler_->cache(), *executable_);
}

std::vector<Completion> Session::generate(const std::vector<Request>& requests) {
  std::vector<Completion> completions(requests.size());
  std::vector<std::unique_ptr<Generation>> generations(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    try {
      auto generation = prepare(requests[i]);
      begin(*generation);
      generations[i] = std::move(generation);
    } catch (const Error& error) {
      completions[i].prompt_tokens = static_cast<int>(requests[i].prompt.size());
      completions[i].finish = FinishReason::kError;
      completions[i].error = error.what();
    }
  }
  run(generations);
  for (size_t i = 0; i < requests.size(); ++i) {
    if (generations[i]) completions[i] = generations[i]->completion();
  }
  return completions;
}

Completion Session::generate(const Request& request, ProgressCallback callback) {
  std::vector<std::unique_ptr<Generation>> generations;
  generations.push_back(prepare(request, std::move(callback)));
  begin(*generations[0]);
  run(generations);
  return generations[0]->completion();
}

// Until all are done or Ctrl-C.
void Session::run(const std::vector<std::unique_ptr<Generation>>& generations) {
  while (!idle()) {
    step();
    if (!interrupted()) continue;
    for (const auto& generation : generations) {
      if (generation && !generation->done()) cancel(*generation);
    }
  }
}

}  // namespace edgewise
