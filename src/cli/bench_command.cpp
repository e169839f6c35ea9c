#include <sstream>

#include "base/error.h"
#include "base/mapped_file.h"
#include "base/output_file.h"
#include "bench/benchmark.h"
#include "bench/memory.h"
#include "cli/command.h"
#include "cli/draft_flags.h"
#include "cli/pipeline.h"

namespace edgewise {
namespace {

struct BenchFlags {
  std::vector<std::string> engines;
  std::filesystem::path output_dir;
  std::filesystem::path prompts;
  DraftFlags draft;
  BenchOptions options;
};

std::vector<std::string> read_lines(const std::filesystem::path& file) {
  std::vector<std::string> lines;
  std::istringstream text(read_text_file(file));
  for (std::string line; std::getline(text, line);) {
    if (!line.empty()) lines.push_back(line);
  }
  if (lines.empty()) usage_error("--prompts {}: no prompt in it", file.string());
  return lines;
}

int bench(BenchFlags flags) {
  flags.draft.apply({}, flags.options.session);
  if (!flags.prompts.empty()) flags.options.prompts = read_lines(flags.prompts);
  std::vector<BenchResult> results;
  OrderedJson document = OrderedJson::array();
  for (const std::string& engine : flags.engines) {
    results.push_back(run_benchmark(engine, flags.options));
    document.push_back(to_json(results.back(), flags.options));
  }
  const std::string table = to_markdown(results, flags.options);
  fmt::print("{}", table);
  if (flags.output_dir.empty()) return 0;
  const auto& out = flags.output_dir;
  std::filesystem::create_directories(out);
  write_text_file(out / "bench.json", document.dump(2) + "\n");
  write_text_file(out / "bench.md", table);
  write_text_file(out / "decode.svg", to_svg(results, "Decode speed, all sequences", "tok/s",
                                             [](const BenchPoint& p) { return p.decode.median; }));
  write_text_file(out / "ttft.svg", to_svg(results, "Time to first token", "ms",
                                           [](const BenchPoint& p) { return p.ttft.median * 1e3; }));
  fmt::print("\nwritten: {0}/bench.json, {0}/bench.md, {0}/decode.svg, {0}/ttft.svg\n", out.string());
  return 0;
}

}  // namespace

void add_bench(Commands& commands) {
  CLI::App& command = commands.add("bench", "speed of engines: TTFT, ITL, prefill, decode, load time, memory",
                                   "edgewise bench --engine_dirs out/engine --input_len 128 --output_len 128 "
                                   "--batch_sizes 1 --output_dir out/bench");
  auto flags = std::make_shared<BenchFlags>();
  BenchOptions& o = flags->options;
  add_flag(command, "engine_dirs", flags->engines, "engine directories")->required();
  add_flag(command, "input_len", o.input_length, "tokens of each prompt");
  add_flag(command, "output_len", o.output_length, "tokens of each answer");
  add_flag(command, "batch_sizes", o.batch_sizes, "sequences side by side");
  add_flag(command, "iterations", o.iterations, "measured runs");
  add_flag(command, "warmup", o.warmup, "runs beforehand that do not count");
  add_flag(command, "temperature", o.sampling.temperature, "0 is greedy");
  add_flag(command, "top_p", o.sampling.top_p, "nucleus sampling");
  add_flag(command, "top_k", o.sampling.top_k, "sample from the k best tokens (0: all)");
  add_flag(command, "repetition_penalty", o.sampling.repetition_penalty, "above 1 discourages repetition");
  add_flag(command, "threads", o.session.threads, "CPU threads (0: all cores)");
  add_flag(command, "lora", o.adapters, "directories of PEFT adapters, which the sequences take in turn");
  add_flag(command, "prompts", flags->prompts, "text file of prompts, one a line, in place of tokens in no order");
  add_draft_flags(command, flags->draft, HeadDefault::kOff);
  add_flag(command, "output_dir", flags->output_dir, "where to write JSON, the Markdown table and SVG charts");
  commands.on_run(command, [flags] { return bench(*flags); });
}

void add_memory(Commands& commands) {
  CLI::App& command =
      commands.add("memory", "what an engine takes in memory for batch sizes and lengths, and what fits here",
                   "edgewise memory out/engine --batch_sizes 1 4 8 --sequence_lengths 256 1024");
  struct MemoryFlags {
    std::string engine;
    std::vector<int> batches = {1, 4, 8, 16};
    std::vector<int> lengths = {256, 512, 1024};
    std::filesystem::path draft_engine;
    std::filesystem::path cache_dir = default_cache_dir();
    bool json = false;
  };
  auto flags = std::make_shared<MemoryFlags>();
  command.add_option("engine", flags->engine, "engine, ONNX or checkpoint directory")->required();
  add_flag(command, "batch_sizes", flags->batches, "sequences side by side");
  add_flag(command, "sequence_lengths", flags->lengths, "tokens of each sequence");
  command.add_option(both_spellings("draft_engine"), flags->draft_engine,
                     "with this engine guessing ahead, instead of a draft head");
  add_flag(command, "cache_dir", flags->cache_dir, "where exported and built stages are kept");
  command.add_flag("--json", flags->json, "print JSON");
  commands.on_run(command, [flags] {
    const auto analysis = analyze_memory(ensure_engine(flags->engine, flags->cache_dir, {}), flags->batches,
                                         flags->lengths, flags->draft_engine);
    fmt::print("{}", flags->json ? to_json(analysis).dump(2) + "\n" : to_text(analysis));
    return 0;
  });
}

}  // namespace edgewise
