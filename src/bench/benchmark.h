// Speed of an engine: how long until the first token, how fast the others follow, and how much of the machine's
// memory bandwidth that uses.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "bench/statistics.h"
#include "runtime/session.h"

namespace edgewise {

struct BenchOptions {
  int input_length = 128;   // tokens of each prompt
  int output_length = 128;  // tokens of each answer
  std::vector<int> batch_sizes = {1};
  int iterations = 5;
  int warmup = 1;
  std::vector<std::filesystem::path> adapters;  // PEFT directories; the sequences take them in turn
  SamplingOptions sampling = {};                // greedy
  SessionOptions session = {.share_prefixes = false};
  std::vector<std::string> prompts = {};  // asked in place of tokens in no order: what is guessed depends on the text
};

struct BenchPoint {
  int batch = 1;
  Summary ttft;                  // seconds to the first token, a request
  Summary itl;                   // seconds between tokens, all intervals of all requests
  Summary prefill;               // prompt tokens a second, an iteration
  Summary decode;                // answer tokens a second over all sequences, an iteration
  SpeculationStats speculation;  // of all measured runs
  double bytes_per_step = 0;     // weights and cache that a decode step reads, on average
  double bandwidth_share = 0;    // bytes_per_step / median step time / bandwidth
};

// What adapters cost, from requests for one token that run in turns: medians.
struct AdapterCost {
  std::vector<double> load_seconds;  // of each adapter, into the running session
  std::vector<double> step_seconds;  // a step of the base, then of each adapter, after one with the same
  double switched_seconds = 0;       // a step after one with another adapter, over all of them
  double unswitched_seconds = 0;     // the same after one with the same
};

struct BenchResult {
  std::string engine;
  double load_seconds = 0;
  double bandwidth = 0;    // bytes a second that all threads together read, measured in this run
  size_t peak_memory = 0;  // bytes resident at most
  MemoryUse memory;
  std::string remark;  // of the executable
  AdapterCost adapters;
  std::vector<BenchPoint> points;
};

// Throws Error(kUsage) when lengths or batch sizes exceed what the engine was built for.
BenchResult run_benchmark(const std::filesystem::path& engine_dir, const BenchOptions& options);

// Bytes a second that `threads` threads (0: all) read from a buffer far larger than the caches: the best of 9 runs.
double measure_bandwidth(int threads);
// Most memory the process had resident since run_benchmark() began.
size_t peak_resident_bytes();

OrderedJson to_json(const BenchResult& result, const BenchOptions& options);
std::string to_markdown(const std::vector<BenchResult>& results, const BenchOptions& options);
// A bar chart of one value for each engine and batch size.
std::string to_svg(const std::vector<BenchResult>& results, const std::string& title, const std::string& unit,
                   double (*value)(const BenchPoint&));

}  // namespace edgewise
