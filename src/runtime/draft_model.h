// What guesses ahead for a model: its own draft head, or another engine.
#pragma once

#include <filesystem>
#include <memory>
#include <span>

#include "engine/engine_file.h"
#include "runtime/model_drafter.h"
#include "text/tokenizer.h"

namespace edgewise {

struct DraftModel {
  std::unique_ptr<Engine> engine;  // none where the text itself is looked up
  std::unique_ptr<Executable> executable;
  std::unique_ptr<Drafter> drafter;
};

// The model that gets the guesses.
struct DraftedModel {
  const std::filesystem::path& directory;
  const Engine& engine;
  const Tokenizer& tokenizer;
  int64_t vocabulary = 0;         // tokens it takes
  std::span<const int32_t> kept;  // those of them that have logits, ascending; empty: all
};

// Maps the engine `name` of a directory, for this machine. Throws Error naming what is missing or does not fit.
std::unique_ptr<Engine> load_engine(const std::filesystem::path& engine_dir, const char* name);

// Tokens that go into an engine, those of a reduced vocabulary included that have no logits.
int64_t token_count(const Graph& graph);

// Whether an engine directory holds a draft head.
bool has_draft_head(const std::filesystem::path& engine_dir);

// What a model's head, or another engine, is loaded with to guess for a model that is loaded with `load`.
LoadOptions draft_head_load(LoadOptions load, const DraftingOptions& options);
LoadOptions draft_engine_load(LoadOptions load, const DraftingOptions& options, const EngineInfo& info);

// `load`: what the model was loaded with. Both throw Error naming what is missing or does not fit.
DraftModel load_draft_head(const DraftedModel& model, const DraftingOptions& options, const LoadOptions& load);
// Also when the two tokenizers have different vocabularies, with the first difference.
DraftModel load_draft_engine(const std::filesystem::path& engine_dir, const DraftedModel& model,
                             const DraftingOptions& options, const LoadOptions& load);

}  // namespace edgewise
