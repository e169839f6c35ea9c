// Measures encoding and decoding on one thread:
//   tokenizer_bench tokenizer.json text.txt...
// Prints a line of JSON for each text, once encoded as a whole and once line by line.
// tools/bench_tokenizer.py sets Hugging Face's library beside it.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/mapped_file.h"
#include "base/report_errors.h"
#include "text/tokenizer.h"

namespace edgewise {
namespace {

constexpr int kRuns = 7;

std::vector<std::string_view> split_lines(std::string_view text) {
  std::vector<std::string_view> lines;
  for (size_t pos = 0; pos < text.size();) {
    const size_t end = std::min(text.find('\n', pos), text.size());
    lines.push_back(text.substr(pos, end - pos));
    pos = end + 1;
  }
  return lines;
}

// Median seconds of several runs, after one that warms the caches up.
template <typename Work>
double median_seconds(const Work& work) {
  std::vector<double> seconds;
  work();
  for (int run = 0; run < kRuns; ++run) {
    const auto start = std::chrono::steady_clock::now();
    work();
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[kRuns / 2];
}

void measure(const Tokenizer& tokenizer, const std::string& path, const std::string& mode,
             const std::vector<std::string_view>& texts) {
  std::vector<int32_t> ids;
  std::vector<std::vector<int32_t>> all;
  size_t bytes = 0;
  size_t tokens = 0;
  for (const std::string_view text : texts) {
    all.push_back(tokenizer.encode(text, false));
    bytes += text.size();
    tokens += all.back().size();
  }
  const double encode = median_seconds([&] {
    for (const std::string_view text : texts) tokenizer.encode_to(text, false, ids);
  });
  const double decode = median_seconds([&] {
    for (const auto& sequence : all) tokenizer.decode(sequence, false);
  });
  fmt::print(R"({{"file": "{}", "mode": "{}", "bytes": {}, "tokens": {}, "encode": {:.2f}, "decode": {:.2f}}})"
             "\n",
             path, mode, bytes, tokens, bytes / encode / 1e6, bytes / decode / 1e6);
}

int run(int argc, char** argv) {
  if (argc < 3) usage_error("usage: tokenizer_bench tokenizer.json text.txt...");
  const Tokenizer tokenizer = Tokenizer::load(argv[1]);
  for (int i = 2; i < argc; ++i) {
    const std::string text = read_text_file(argv[i]);
    measure(tokenizer, argv[i], "document", {text});
    measure(tokenizer, argv[i], "lines", split_lines(text));
  }
  return 0;
}

}  // namespace
}  // namespace edgewise

int main(int argc, char** argv) { return edgewise::report_errors("tokenizer_bench", edgewise::run, argc, argv); }
