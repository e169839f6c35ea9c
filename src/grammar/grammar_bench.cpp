// Measures structured output over a folder of schemas with instances (tests/data/grammar/schemas):
//   grammar_bench tokenizer.json folder
// Each schema is compiled; each of its instances is followed token by token, compact and indented, and the mask
// computed before each token. "first" are the masks of a schema's first instance, when nothing is known about the
// grammar yet.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/mapped_file.h"
#include "base/report_errors.h"
#include "formats/json.h"
#include "grammar/constraint.h"
#include "text/tokenizer.h"

namespace edgewise {
namespace {

using Clock = std::chrono::steady_clock;

double microseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

void report(const char* what, std::vector<double> times) {
  if (times.empty()) return;
  std::ranges::sort(times);
  const auto at = [&](double share) {
    return times[static_cast<size_t>(share * static_cast<double>(times.size() - 1))];
  };
  double sum = 0;
  for (const double time : times) sum += time;
  fmt::print(
      R"({{"what": "{}", "count": {}, "mean_us": {:.1f}, "median_us": {:.1f}, "p99_us": {:.1f}, "max_us": {:.1f}}})"
      "\n",
      what, times.size(), sum / static_cast<double>(times.size()), at(0.5), at(0.99), times.back());
}

struct Times {
  std::vector<double> compile;
  std::vector<double> mask;
  std::vector<double> first_mask;
  std::vector<double> accept;
  size_t refused = 0;
};

void follow(ConstraintState state, const std::vector<int32_t>& tokens, std::vector<uint64_t>& bits, bool first,
            Times& times) {
  for (const int32_t token : tokens) {
    auto start = Clock::now();
    const bool some = state.fill_mask(bits);
    times.mask.push_back(microseconds_since(start));
    if (first) times.first_mask.push_back(times.mask.back());
    start = Clock::now();
    const bool accepted = some && state.accept(token);
    times.accept.push_back(microseconds_since(start));
    if (accepted) continue;
    ++times.refused;
    return;
  }
  if (!state.can_end()) ++times.refused;
}

void measure(const Tokenizer& tokenizer, const GrammarCompiler& compiler, const OrderedJson& item, Times& times) {
  const std::string schema = item.at("schema").dump();
  const auto start = Clock::now();
  const auto grammar = compiler.compile_json_schema_text(schema);
  times.compile.push_back(microseconds_since(start));
  std::vector<uint64_t> bits(grammar->mask_words());
  bool first = true;
  for (const OrderedJson& instance : item.at("instances")) {
    for (const int indent : {2, -1}) {
      const std::vector<int32_t> tokens = tokenizer.encode(instance.dump(indent), false);
      const size_t refused = times.refused;
      follow(ConstraintState(grammar), tokens, bits, first, times);
      if (times.refused != refused) fmt::print(stderr, "refused: {}: {}\n", schema, instance.dump(indent));
      first = false;
    }
  }
}

int run(int argc, char** argv) {
  if (argc != 3) usage_error("usage: grammar_bench tokenizer.json folder");
  const Tokenizer tokenizer = Tokenizer::load(argv[1]);
  const auto start = Clock::now();
  const GrammarCompiler compiler(tokenizer, tokenizer.vocab_size(), {});
  fmt::print(R"({{"what": "compiler", "vocabulary": {}, "ms": {:.1f}}})"
             "\n",
             tokenizer.vocab_size(), microseconds_since(start) / 1000);
  Times times;
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(argv[2])) files.push_back(entry.path());
  std::ranges::sort(files);
  for (const auto& file : files) {
    for (const OrderedJson& item : parse_ordered_json(read_text_file(file), file.string())) {
      measure(tokenizer, compiler, item, times);
    }
  }
  report("compile", std::move(times.compile));
  report("mask", std::move(times.mask));
  report("mask, first instance", std::move(times.first_mask));
  report("accept", std::move(times.accept));
  fmt::print(R"({{"what": "refused", "count": {}}})"
             "\n",
             times.refused);
  return times.refused == 0 ? 0 : 1;
}

}  // namespace
}  // namespace edgewise

int main(int argc, char** argv) { return edgewise::report_errors("grammar_bench", edgewise::run, argc, argv); }
