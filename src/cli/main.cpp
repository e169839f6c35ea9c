#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>

#include "base/error.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/recipe.h"

namespace {

// 0: done. 1: a check did not hold. 2: bad input, or it can't be done. 130: interrupted.
int exit_code(const edgewise::Error& error) { return error.kind() == edgewise::ErrorKind::kInterrupted ? 130 : 2; }

// A link's name stands for a subcommand: llm_build ARGS is edgewise build ARGS.
std::vector<std::string> arguments(int argc, char** argv) {
  static const std::map<std::string, std::string> kLinks = {{"llm_build", "build"},
                                                            {"llm_inference", "infer"},
                                                            {"tensorrt-edgellm-quantize-llm", "quantize"},
                                                            {"tensorrt-edgellm-export-llm", "export"},
                                                            {"tensorrt-edgellm-merge-lora", "merge"},
                                                            {"tensorrt-edgellm-reduce-vocab", "reduce-vocab"},
                                                            {"tensorrt-edgellm-export-draft", "export"}};
  std::vector<std::string> result;
  const auto link = kLinks.find(std::filesystem::path(argc > 0 ? argv[0] : "").filename().string());
  if (link != kLinks.end()) result.push_back(link->second);
  for (int i = 1; i < argc; ++i) result.emplace_back(argv[i]);
  return result;
}

void check_command(const std::vector<std::string>& words, const CLI::App& app) {
  if (words.empty() || words[0].starts_with('-')) return;
  const auto named = [&](const CLI::App* command) { return command->get_name() == words[0]; };
  if (!app.get_subcommands(named).empty()) return;
  edgewise::usage_error("unknown command {}; edgewise --help lists the commands", words[0]);
}

}  // namespace

int main(int argc, char** argv) {
  edgewise::install_interrupt_handler();
  CLI::App app(
      "Edgewise: run language models on the machine at hand.\n\n"
      "  HF checkpoint --quantize--> checkpoint --export--> ONNX --build--> engine --run--> text\n\n"
      "quantize, export and build also take --config RECIPE.yaml in place of flags.\n");
  app.require_subcommand(1);
  app.set_version_flag("--version", EDGEWISE_VERSION);
  edgewise::Commands commands(app);
  edgewise::add_quantize(commands);
  edgewise::add_export(commands);
  edgewise::add_merge(commands);
  edgewise::add_reduce_vocab(commands);
  edgewise::add_build(commands);
  edgewise::add_run(commands);
  edgewise::add_serve(commands);
  edgewise::add_infer(commands);
  edgewise::add_bench(commands);
  edgewise::add_memory(commands);
  edgewise::add_inspect(commands);
  edgewise::add_verify(commands);
  edgewise::add_eval(commands);
  edgewise::add_tokenize(commands);
  edgewise::add_template(commands);
  try {
    auto words = edgewise::expand_recipe(arguments(argc, argv), app);
    check_command(words, app);
    std::reverse(words.begin(), words.end());  // as CLI11 takes them
    app.parse(words);
    return commands.run();
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const edgewise::Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return exit_code(error);
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "error: out of memory\n");
    return 2;
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 2;
  }
}
