#include "runtime/draft_model.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "formats/companions.h"
#include "formats/safetensors.h"
#include "models/vocab_map.h"
#include "runtime/eagle_drafter.h"
#include "runtime/engine_drafter.h"

namespace edgewise {
namespace fs = std::filesystem;
namespace {

constexpr const char* kTokenizerFile = "tokenizer.json";

std::vector<int32_t> all_tokens(int64_t count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

int64_t logit_count(const Graph& graph) { return graph.value(graph.outputs().at(0)).shape.at(1); }

// The tokens that a head's vocabulary stands for.
std::vector<int32_t> read_draft_vocabulary(const fs::path& file, int64_t size, int64_t vocabulary) {
  std::vector<int32_t> tokens = all_tokens(size);
  if (fs::exists(file)) {
    const auto offsets = SafetensorsFile::open(file).at("d2t").to_int64();
    if (offsets.size() != tokens.size())
      bad_file("{}: d2t has {} entries, the head guesses among {} tokens", file.string(), offsets.size(), size);
    for (size_t i = 0; i < tokens.size(); ++i)
      tokens[i] += static_cast<int32_t>(std::clamp<int64_t>(offsets[i], -1 - tokens[i], vocabulary - tokens[i]));
  }
  for (const int32_t token : tokens) {
    if (token < 0 || token >= vocabulary)
      bad_file("{}: the head guesses tokens beyond the model's vocabulary of {}", file.string(), vocabulary);
  }
  return tokens;
}

// Ids must mean the same to both; how text becomes ids is the model's business alone.
void check_same_tokens(const fs::path& draft_dir, const DraftedModel& model) {
  const fs::path file = draft_dir / kTokenizerFile;
  const Tokenizer tokenizer = Tokenizer::load(file);
  const auto refuse = [&](const std::string& ours, const std::string& theirs) {
    bad_file("{} has {}, {} has {}: an engine guesses for another one only with the same vocabulary", file.string(),
             theirs, (model.directory / kTokenizerFile).string(), ours);
  };
  const auto text = [](int32_t id, const std::optional<std::string>& token) {
    return token ? fmt::format("\"{}\" as token {}", *token, id) : fmt::format("no token {}", id);
  };
  for (int32_t id = 0; id < std::max(tokenizer.vocab_size(), model.tokenizer.vocab_size()); ++id) {
    const auto ours = model.tokenizer.id_to_token(id);
    const auto theirs = tokenizer.id_to_token(id);
    if (ours != theirs) refuse(text(id, ours), text(id, theirs));
  }
}

// The model's token for each logit of another engine, -1 where the model never says it.
std::vector<int32_t> draft_targets(const fs::path& draft_dir, const Graph& draft, const DraftedModel& model) {
  const int64_t logits = logit_count(draft);
  std::vector<int32_t> targets = all_tokens(logits);
  if (const fs::path map = draft_dir / kVocabMapFile; fs::exists(map)) {
    targets = read_vocab_map(map, token_count(draft));
    if (static_cast<int64_t>(targets.size()) != logits)
      bad_file("{}: {} tokens, the engine has {} logits; they do not belong together", map.string(), targets.size(),
               logits);
  }
  for (int32_t& target : targets) {
    const bool said = model.kept.empty() ? target < model.vocabulary : std::ranges::binary_search(model.kept, target);
    if (!said) target = -1;
  }
  return targets;
}

}  // namespace

std::unique_ptr<Engine> load_engine(const fs::path& engine_dir, const char* name) {
  const fs::path file = engine_dir / name;
  if (!fs::exists(file)) {
    fail(ErrorKind::kIo, "{}: no {}; build one with `edgewise build --onnxDir ONNX --engineDir {}`",
         engine_dir.string(), name, engine_dir.string());
  }
  auto engine = std::make_unique<Engine>(read_engine(file));
  const Backend& backend = find_backend(engine->info.device);
  if (backend.layout() != engine->info.layout) {
    bad_file("{}: its weights have the layout {}, this program's {} backend reads {}; build the engine again",
             file.string(), engine->info.layout, engine->info.device, backend.layout());
  }
  return engine;
}

int64_t token_count(const Graph& graph) {
  int64_t count = logit_count(graph);
  for (const Node& node : graph.nodes()) {
    if (node.op == Op::kEmbedding) count = graph.value(node.inputs[1]).shape.at(0);
  }
  return count;
}

bool has_draft_head(const fs::path& engine_dir) { return fs::exists(engine_dir / kDraftEngineFileName); }

LoadOptions draft_head_load(LoadOptions load, const DraftingOptions& options) {
  load.max_rows = load.max_sequences * options.top_k;
  load.max_tokens = std::max(load.max_tokens, load.max_rows);
  return load;
}

LoadOptions draft_engine_load(LoadOptions load, const DraftingOptions& options, const EngineInfo& info) {
  load.max_rows = load.max_sequences * options.top_k;
  load.max_tokens = std::max(EngineDrafter::most_step_tokens({load.max_sequences, load.max_tokens}), load.max_rows);
  load.kv_dtype = info.kv_dtype;
  return load;
}

DraftModel load_draft_head(const DraftedModel& model, const DraftingOptions& options, const LoadOptions& load) {
  if (!has_draft_head(model.directory)) {
    fail(ErrorKind::kIo,
         "{}: no {}; an engine with a draft head comes of `edgewise export --model_dir MODEL --draft_model_dir HEAD`",
         model.directory.string(), kDraftEngineFileName);
  }
  DraftModel draft;
  draft.engine = load_engine(model.directory, kDraftEngineFileName);
  const Graph& base = model.engine.graph;
  const Graph& head = draft.engine->graph;
  const ValueId input = head.find_value(kHiddenInput);
  if (base.outputs().size() != 3 || head.outputs().size() != 2 || input == kNone ||
      head.value(input).shape != base.value(base.outputs()[2]).shape ||
      head.value(input).shape[1] != head.value(head.outputs()[1]).shape[1]) {
    bad_file("{}: {} and {} do not belong together; build the engine again", model.directory.string(), kEngineFileName,
             kDraftEngineFileName);
  }
  const DraftLimits limits{load.max_sequences, load.max_tokens, head.value(input).shape.at(1)};
  draft.executable = find_backend(model.engine.info.device).load(head, draft_head_load(load, options));
  draft.drafter = std::make_unique<EagleDrafter>(
      *draft.executable, options, limits,
      read_draft_vocabulary(model.directory / kDraftVocabularyFile, logit_count(head), model.vocabulary));
  return draft;
}

DraftModel load_draft_engine(const fs::path& engine_dir, const DraftedModel& model, const DraftingOptions& options,
                             const LoadOptions& load) {
  DraftModel draft;
  draft.engine = load_engine(engine_dir, kEngineFileName);
  check_same_tokens(engine_dir, model);
  const EngineInfo& info = draft.engine->info;
  const Graph& graph = draft.engine->graph;
  const DraftLimits limits{load.max_sequences, load.max_tokens, 0};
  draft.executable = find_backend(info.device).load(graph, draft_engine_load(load, options, info));
  draft.drafter = std::make_unique<EngineDrafter>(*draft.executable, options, limits,
                                                  draft_targets(engine_dir, graph, model), token_count(graph));
  return draft;
}

}  // namespace edgewise
