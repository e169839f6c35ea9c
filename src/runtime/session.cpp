#include "runtime/session.h"

#include <algorithm>

#include "backends/memory_plan.h"
#include "base/error.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "formats/companions.h"
#include "models/adapter.h"
#include "models/vocab_map.h"
#include "runtime/prompt_lookup.h"

namespace edgewise {
namespace fs = std::filesystem;
namespace {

Tokenizer load_tokenizer(const fs::path& engine_dir) {
  if (!fs::exists(engine_dir / "tokenizer.json")) {
    fail(ErrorKind::kIo, "{}: no tokenizer.json; the engine was built from a model without one", engine_dir.string());
  }
  return Tokenizer::load(engine_dir / "tokenizer.json");
}

constexpr int kMostDraftTokens = 64;

// Positions that the model knows, as its config says.
int64_t model_context(const fs::path& engine_dir) {
  constexpr const char* kKey = "max_position_embeddings";
  constexpr int64_t kUnknown = 2048;
  if (!fs::exists(engine_dir / "config.json")) return kUnknown;
  const Json document = read_json_file(engine_dir / "config.json");
  const JsonView config(document, (engine_dir / "config.json").string());
  if (!config.has(kKey) && config.has("text_config")) return config.at("text_config").integer(kKey, kUnknown);
  return config.integer(kKey, kUnknown);
}

}  // namespace

Session::Session(const fs::path& engine_dir, const SessionOptions& options)
    : directory_(engine_dir),
      engine_(load_engine(engine_dir, kEngineFileName)),
      tokenizer_(load_tokenizer(engine_dir)),
      chat_template_(load_chat_template(engine_dir)),
      tool_template_(load_chat_template(engine_dir, "tool_use")) {
  const EngineInfo& info = engine_->info;
  if (options.draft_tokens < 0 || options.draft_tokens > kMostDraftTokens) {
    usage_error("--prompt_lookup {}: expected 0 to {}", options.draft_tokens, kMostDraftTokens);
  }
  const auto& drafting = options.drafting;
  if (drafting) drafting->check();
  check_internal(!drafting || options.draft_tokens == 0, "one kind of guesses");
  const int drafted = drafting ? drafting->tokens(drafting->steps) : options.draft_tokens;
  const int slots = drafting ? drafting->slots() : drafted;
  read_vocabulary();
  limits_.max_sequences = info.max_batch_size;
  const int rows = info.max_batch_size * (drafted + 1);  // of decoding sequences, with logits
  const Backend& backend = find_backend(info.device);
  const int chunk = options.max_step_tokens > 0 ? options.max_step_tokens : backend.prefill_chunk();
  limits_.max_step_tokens = std::max(rows, std::min(chunk, info.max_input_length));
  limits_.reserve_whole = info.kv_policy == "linear";
  limits_.max_waiting = options.max_waiting;
  limits_.share_prefixes = options.share_prefixes;
  limits_.protect_decoding = options.protect_decoding;
  LoadOptions load{.max_tokens = limits_.max_step_tokens,
                   .max_sequences = info.max_batch_size,
                   .max_rows = options.all_logits ? limits_.max_step_tokens : rows,
                   .kv_dtype = info.kv_dtype,
                   .pool = std::make_shared<ThreadPool>(options.threads)};
  choose_capacity(load, slots);
  load.kv_pages = limits_.kv_pages;
  executable_ = backend.load(engine_->graph, load);
  executable_->set_profiling(options.profile);
  adapters_ = std::make_unique<AdapterShelf>(
      *executable_, [this](const fs::path& path) { return read_adapter_files(path); }, options.adapters);
  load_drafter(options, load);
  read_generation_config(engine_dir);
  grammars_ = std::make_unique<GrammarCache>(tokenizer_, vocabulary_, end_tokens_, kept_tokens_);
  scheduler_ = std::make_unique<Scheduler>(*executable_, limits_, end_tokens_, draft_.drafter.get());
}

// How many tokens a sequence may have, and pages for all. `slots` are a sequence's guesses.
void Session::choose_capacity(const LoadOptions& load, int slots) {
  EngineInfo& info = engine_->info;
  const auto pages_for = [&](int64_t tokens) { return (tokens + slots + kPageTokens - 1) / kPageTokens; };
  int64_t pages = pages_for(info.kv_capacity) * info.max_batch_size;
  if (info.kv_capacity == 0) {
    const size_t page = kv_page_bytes(engine_->graph, info.kv_dtype);
    const size_t room = find_backend(info.device).cache_room(engine_->graph, load);
    const int64_t context = model_context(directory_);
    const auto most = static_cast<int64_t>(room / std::max<size_t>(page, 1));
    pages = std::min(most, pages_for(context) * info.max_batch_size);
    const int64_t each = info.kv_policy == "linear" ? pages / info.max_batch_size : pages;
    info.kv_capacity = static_cast<int>(std::min(context, each * kPageTokens - slots));
    if (info.kv_capacity < kPageTokens || pages < info.max_batch_size) {
      fail(ErrorKind::kIo,
           "--maxKVCacheCapacity auto: {:.2f} GB are left for the cache of {} sequences, and {} tokens of one take "
           "{:.4f} GB; build with a smaller --maxBatchSize, or quantize the model",
           static_cast<double>(room) / 1e9, info.max_batch_size, kPageTokens, static_cast<double>(page) / 1e9);
    }
    info.max_input_length = std::min(info.max_input_length, info.kv_capacity);
  }
  limits_.kv_capacity = info.kv_capacity;
  limits_.kv_pages = static_cast<int>(pages);
}

void Session::load_drafter(const SessionOptions& options, const LoadOptions& load) {
  if (options.draft_tokens > 0) draft_.drafter = std::make_unique<PromptLookup>(options.draft_tokens);
  if (!options.drafting) return;
  const DraftedModel model{directory_, *engine_, tokenizer_, vocabulary_, kept_tokens_};
  draft_ = options.draft_engine.empty() ? load_draft_head(model, *options.drafting, load)
                                        : load_draft_engine(options.draft_engine, model, *options.drafting, load);
  draft_.executable->set_profiling(options.profile);
}

// Tokens that go in, and those that have logits.
void Session::read_vocabulary() {
  const auto& outputs = engine_->graph.outputs();
  if (outputs.size() > 1 && engine_->graph.value(outputs[1]).shape[0] == kRows)
    limits_.hidden = engine_->graph.value(outputs[1]).shape.at(1);
  limits_.vocabulary = engine_->graph.value(engine_->graph.outputs().at(0)).shape.at(1);
  vocabulary_ = limits_.vocabulary;
  if (!fs::exists(directory_ / kVocabMapFile)) return;
  vocabulary_ = token_count(engine_->graph);
  kept_tokens_ = read_vocab_map(directory_ / kVocabMapFile, vocabulary_);
  if (static_cast<int64_t>(kept_tokens_.size()) != limits_.vocabulary) {
    bad_file("{}: {} tokens, the engine has {} logits; they do not belong together",
             (directory_ / kVocabMapFile).string(), kept_tokens_.size(), limits_.vocabulary);
  }
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

std::string_view Session::tool_template() const {
  if (tool_template_) return tool_template_->chat_template.source();
  return chat_template_ ? std::string_view(chat_template_->chat_template.source()) : "";
}

std::vector<int32_t> Session::encode_chat(const OrderedJson& messages, const OrderedJson& tools) const {
  if (!chat_template_) {
    usage_error(
        "this model has no chat template; give the prompt as plain text (--raw, or \"apply_chat_template\": false)");
  }
  const LoadedChatTemplate& loaded = tools.empty() || !tool_template_ ? *chat_template_ : *tool_template_;
  OrderedJson inputs = loaded.special_tokens;
  inputs["messages"] = messages;
  if (!tools.empty()) inputs["tools"] = tools;
  inputs["add_generation_prompt"] = true;
  return tokenizer_.encode(loaded.chat_template.render(inputs), false);
}

std::vector<int32_t> Session::encode_text(std::string_view text) const { return tokenizer_.encode(text, true); }

// An adapter as this engine's model needs it.
Adapter Session::read_adapter_files(const fs::path& path) const {
  Adapter adapter = read_adapter(path);
  if (fs::exists(directory_ / kChannelScalesFile)) follow_channel_scales(directory_ / kChannelScalesFile, adapter);
  for (auto& [module, weights] : adapter) {  // an adapter of the head, whose rows are fewer here
    if (reduced() && weights.b.dim(0) == vocabulary_) weights.b = gather_rows(weights.b, kept_tokens_);
  }
  return adapter;
}

std::string_view Session::adapter_warning() const {
  if (!has_unknown_channel_scales(directory_)) return "";
  return "the model comes from AutoAWQ, which divides channels by factors that it does not keep: an adapter that was "
         "trained on the float model gives worse answers here; take one trained on this checkpoint, or `edgewise "
         "quantize` the float model";
}

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
  if (request.embed && limits_.hidden == 0) usage_error("this engine puts out no hidden states; build it again");
}

std::unique_ptr<Generation> Session::prepare(const Request& request, ProgressCallback callback) const {
  check(request);
  check_internal(!request.grammar || request.grammar->vocabulary_size() == vocabulary_, "a grammar of another model");
  const int room = info().kv_capacity - static_cast<int>(request.prompt.size());
  auto generation =
      std::make_unique<Generation>(request, std::min(request.max_tokens, room), LogitTokens(vocabulary_, kept_tokens_),
                                   tokenizer_, std::move(callback));
  if (!request.adapter.empty()) generation->hold_adapter(adapters_->use(request.adapter));
  return generation;
}

void Session::begin(Generation& generation) {
  if (const std::string fault = executable_->fault(); !fault.empty()) fail(ErrorKind::kIo, "{}", fault);
  if (generation.adapter()) {
    adapters_->attach(*generation.adapter());
    adapters_->unload_unused();
  }
  active_.reserve(active_.size() + 1);  // nothing fails behind submit()
  if (!scheduler_->submit(generation.sequence())) {
    fail(ErrorKind::kBusy, "{} requests wait already; try again later", scheduler_->waiting());
  }
  active_.push_back(&generation);
}

StepOutcome Session::step() {
  const StepOutcome outcome = scheduler_->step();
  const std::string fault = outcome == StepOutcome::kDone ? "" : executable_->fault();
  for (Generation* generation : active_) {
    const FinishReason leave = generation->collect(outcome, fault);
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

CacheOwner Session::cache_owner(const std::string& adapter) const {
  return {info().model, engine_->fingerprint, info().kv_dtype, vocabulary_,
          adapter.empty() ? AdapterIdentity{} : adapters_->find(adapter)};
}

void Session::save(const fs::path& file, std::span<const int32_t> tokens, const OrderedJson& messages,
                   const std::string& adapter) {
  write_session_file(file, cache_owner(adapter), tokens, messages, scheduler_->cache(), *executable_);
}

OrderedJson Session::load(const fs::path& file, const std::string& adapter) {
  return read_session_file(file, cache_owner(adapter), scheduler_->cache(), *executable_);
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
