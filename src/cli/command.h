// What every subcommand shares: how it is declared, and flags in both spellings.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

namespace edgewise {

// A subcommand: its parser and what runs once its flags are read. The result is the exit code.
using CommandAction = std::function<int()>;

class Commands {
 public:
  explicit Commands(CLI::App& app) : app_(app) {}
  // Adds a subcommand whose --help ends with `example`.
  CLI::App& add(const std::string& name, const std::string& what, const std::string& example);
  // To be called once the flags are declared.
  void on_run(CLI::App& command, CommandAction action);
  int run() const;

 private:
  CLI::App& app_;
  std::vector<std::pair<CLI::App*, CommandAction>> actions_;
};

// "--maxBatchSize,--max_batch_size" from either spelling.
std::string both_spellings(const std::string& flag);

template <typename T>
CLI::Option* add_flag(CLI::App& command, const std::string& flag, T& value, const std::string& what) {
  return command.add_option(both_spellings(flag), value, what)->capture_default_str();
}

void add_quantize(Commands& commands);
void add_export(Commands& commands);
void add_build(Commands& commands);
void add_run(Commands& commands);
void add_serve(Commands& commands);
void add_eval(Commands& commands);
void add_merge(Commands& commands);
void add_reduce_vocab(Commands& commands);
void add_infer(Commands& commands);
void add_verify(Commands& commands);
void add_tokenize(Commands& commands);
void add_template(Commands& commands);
void add_inspect(Commands& commands);
void add_bench(Commands& commands);
void add_memory(Commands& commands);

}  // namespace edgewise
