#include "compiler/tactics.h"

#include <fstream>
#include <map>

#include "base/error.h"
#include "base/output_file.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "formats/json.h"

namespace edgewise {
namespace {

constexpr int kSizes[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512};

constexpr double kMostProducts = 4e9;  // multiplications of one timed run

// Multiplications a token.
double products(const Node& node) {
  double columns = 0;
  for (const int64_t n : node.integers("n")) columns += static_cast<double>(n);
  return columns * static_cast<double>(node.integer("k", 0));
}

// Nodes of one shape and format share their timing.
std::string kind_of(const Node& node) {
  return fmt::format("{} {} k={} n={} block={}", op_name(node.op), node.text("packed"), node.integer("k", 0),
                     fmt::join(node.integers("n"), "+"), node.integer("block", 0));
}

std::string choose(const Graph& graph, const Node& node, const Backend& backend,
                   const std::vector<std::string>& kernels, int& timed) {
  std::string tactics;
  std::string last;
  for (const int tokens : kSizes) {
    // The choice at the largest size timed holds for those above: past this much work it no longer changes.
    if (tokens > 1 && products(node) * tokens > kMostProducts) break;
    double best_time = 0;
    std::string best;
    for (const std::string& kernel : kernels) {
      const double seconds = backend.time_kernel(graph, node, kernel, tokens);
      ++timed;
      if (best.empty() || seconds < best_time) {
        best = kernel;
        best_time = seconds;
      }
    }
    if (best != last) tactics += fmt::format("{}{}:{}", tactics.empty() ? "" : ",", tokens, best);
    last = best;
    check_interrupted();
  }
  return tactics;
}

}  // namespace

std::string machine_fingerprint() {
  std::ifstream file("/proc/cpuinfo");
  std::string model = "unknown CPU";
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) {
      model = line.substr(line.find(':') + 2);
      break;
    }
  }
  return fmt::format("{}, {} cores", model, available_cores());
}

int choose_tactics(Graph& graph, const Backend& backend, const std::filesystem::path& cache) {
  const std::string key = fmt::format("{} | {}", machine_fingerprint(), backend.layout());
  Json document = Json::object();
  if (!cache.empty() && std::filesystem::exists(cache)) document = read_json_file(cache);
  if (!document.is_object()) bad_file("{}: not a timing cache; delete it to start afresh", cache.string());
  std::map<std::string, std::string> known;
  if (document.contains(key) && document.at(key).is_object()) {
    for (const auto& [kind, tactics] : document.at(key).items()) {
      if (tactics.is_string()) known[kind] = tactics.get<std::string>();
    }
  }
  int timed = 0;
  Progress progress("build: timing kernels", static_cast<int64_t>(graph.nodes().size()), "operators");
  for (Node& node : graph.nodes()) {
    progress.advance(1, node.name);
    const auto kernels = backend.kernels(graph, node);
    if (kernels.size() < 2) continue;
    const std::string kind = kind_of(node);
    auto found = known.find(kind);
    if (found == known.end()) found = known.emplace(kind, choose(graph, node, backend, kernels, timed)).first;
    node.attributes["tactics"] = found->second;
  }
  if (!cache.empty()) {
    document[key] = known;
    write_text_file(cache, document.dump(2) + "\n");
  }
  return timed;
}

}  // namespace edgewise
