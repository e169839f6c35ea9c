// What an engine takes in memory for a number of sequences and a length, before anything is run.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "formats/json.h"

namespace edgewise {

struct MemoryPoint {
  int batch = 1;
  int length = 1;      // tokens of each sequence
  size_t weights = 0;  // of an embedding table only what this many tokens touch
  size_t kv_cache = 0;
  size_t activations = 0;
  size_t workspace = 0;
  size_t program = 0;  // the process without the engine: code, tokenizer, samplers
  bool fits = false;

  size_t total() const { return weights + kv_cache + activations + workspace + program; }
};

struct MemoryAnalysis {
  std::string engine;
  size_t machine = 0;    // bytes of memory there are
  size_t available = 0;  // and that are free now
  std::vector<MemoryPoint> points;
  std::string recommendation;
};

// Loads the engine for each combination, which reserves address space and touches next to none of it; with it what
// guesses ahead: `draft_engine` where one is named, or the engine's own head, which run and serve use unasked.
// Throws Error(kUsage) for sizes that are not positive, and what read_engine() and load_engine() do.
MemoryAnalysis analyze_memory(const std::filesystem::path& engine_dir, const std::vector<int>& batches,
                              const std::vector<int>& lengths, const std::filesystem::path& draft_engine = {});

OrderedJson to_json(const MemoryAnalysis& analysis);
std::string to_text(const MemoryAnalysis& analysis);

}  // namespace edgewise
