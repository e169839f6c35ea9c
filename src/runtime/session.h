// An engine ready to answer: the loaded executable, its tokenizer and its chat template.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine_file.h"
#include "formats/json.h"
#include "runtime/adapters.h"
#include "runtime/answer_format.h"
#include "runtime/draft_model.h"
#include "runtime/generation.h"
#include "runtime/scheduler.h"
#include "runtime/session_file.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace edgewise {

struct SessionOptions {
  int threads = 0;                               // 0: as many as the process may use
  int max_step_tokens = 0;                       // prefill chunk; 0: as the backend likes it
  int draft_tokens = 0;                          // tried at once where the text repeats itself (prompt lookup); 0: none
  std::optional<DraftingOptions> drafting = {};  // guess ahead with a model; not beside draft_tokens
  std::filesystem::path draft_engine = {};       // that model's engine; empty: the engine's own draft head
  int max_waiting = 1 << 20;                     // requests beyond those are refused at once
  bool all_logits = false;  // room for the logits of every token of a step, not of each sequence's last one
  bool profile = false;     // time every operator
  bool share_prefixes = true;
  bool protect_decoding = false;  // answers under way come first; else new prompts
  AdapterLimits adapters = {};

  bool guesses() const { return draft_tokens > 0 || drafting; }
};

class Session {
 public:
  // Throws Error naming what is missing or does not fit.
  explicit Session(const std::filesystem::path& engine_dir, const SessionOptions& options = {});
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const EngineInfo& info() const { return engine_->info; }
  const Graph& graph() const { return engine_->graph; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  Executable& executable() { return *executable_; }
  int64_t vocabulary() const { return vocabulary_; }
  // Whether only some tokens have logits (docs/vocabulary.md).
  bool reduced() const { return !kept_tokens_.empty(); }
  int max_step_tokens() const { return limits_.max_step_tokens; }
  // What generation_config.json recommends; greedy when it says nothing.
  const SamplingOptions& recommended_sampling() const { return recommended_; }
  bool speculates() const { return draft_.drafter != nullptr; }
  bool has_chat_template() const { return chat_template_.has_value(); }

  // Ids of a conversation (an array of {"role", "content"}) with the prompt for an answer behind it.
  // `tools` go to the template as they are. Throws Error(kUsage) when the model has no chat template or the template
  // refuses.
  std::vector<int32_t> encode_chat(const OrderedJson& messages, const OrderedJson& tools = {}) const;
  // The source of the template that conversations with tools take; "" without one.
  std::string_view tool_template() const;
  // Ids of a text as it is, with the special tokens the tokenizer puts around it.
  std::vector<int32_t> encode_text(std::string_view text) const;

  // What constrains an answer to the format. Throws Error(kUsage) saying where the format is wrong.
  std::shared_ptr<const CompiledGrammar> grammar(const AnswerFormat& format) const { return grammars_->get(format); }
  // PEFT adapters that requests may ask for by name.
  AdapterShelf& adapters() { return *adapters_; }
  const AdapterShelf& adapters() const { return *adapters_; }
  // What whoever loads an adapter should know; "" when there is nothing.
  std::string_view adapter_warning() const;

  // An answer that begin() puts under way. Throws Error(kUsage) for a request that can't be run. Safe from any thread.
  std::unique_ptr<Generation> prepare(const Request& request, ProgressCallback callback = {}) const;
  // Throws Error(kBusy) when too many wait, Error(kIo) after a fault of the device, Error when its adapter can't be
  // read again; waits for that unless it is ready(). The generation must outlive its run; step() brings it on.
  void begin(Generation& generation);
  // One step for all answers under way, and their texts to the callbacks.
  StepOutcome step();
  void cancel(Generation& generation);
  bool idle() const { return active_.empty(); }
  const Scheduler& scheduler() const { return *scheduler_; }

  // Writes a conversation to a file, and the cached pages of its `tokens`; load() of the same engine and adapter in
  // another process returns the messages, and a prompt that begins with these tokens continues as it would have here,
  // bit for bit. Throws Error: session_file.h. Between steps only.
  void save(const std::filesystem::path& file, std::span<const int32_t> tokens, const OrderedJson& messages,
            const std::string& adapter = "");
  OrderedJson load(const std::filesystem::path& file, const std::string& adapter = "");

  // Answers all requests side by side. A bad one gets an error, the others their answers.
  std::vector<Completion> generate(const std::vector<Request>& requests);
  Completion generate(const Request& request, ProgressCallback callback = {});

 private:
  Adapter read_adapter_files(const std::filesystem::path& path) const;
  CacheOwner cache_owner(const std::string& adapter) const;
  void check(const Request& request) const;
  void run(const std::vector<std::unique_ptr<Generation>>& generations);
  void read_vocabulary();
  void choose_capacity(const LoadOptions& load, int slots);
  void read_generation_config(const std::filesystem::path& engine_dir);
  void load_drafter(const SessionOptions& options, const LoadOptions& load);

  std::filesystem::path directory_;
  std::unique_ptr<Engine> engine_;
  Tokenizer tokenizer_;
  std::optional<LoadedChatTemplate> chat_template_;
  std::optional<LoadedChatTemplate> tool_template_;  // where the model has a further one for tools
  std::unique_ptr<Executable> executable_;
  DraftModel draft_;
  std::unique_ptr<Scheduler> scheduler_;
  std::vector<Generation*> active_;
  SchedulerLimits limits_;
  int64_t vocabulary_ = 0;
  std::vector<int32_t> kept_tokens_;  // those that have logits; empty: all
  SamplingOptions recommended_;
  std::vector<int32_t> end_tokens_;
  std::unique_ptr<GrammarCache> grammars_;
  std::unique_ptr<AdapterShelf> adapters_;
};

}  // namespace edgewise
