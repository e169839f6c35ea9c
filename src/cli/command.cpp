#include "cli/command.h"

#include <cctype>

#include "base/error.h"

namespace edgewise {

CLI::App& Commands::add(const std::string& name, const std::string& what, const std::string& example) {
  CLI::App* command = app_.add_subcommand(name, what);
  command->footer("Example:\n  " + example);
  return *command;
}

void Commands::on_run(CLI::App& command, CommandAction action) { actions_.emplace_back(&command, std::move(action)); }

int Commands::run() const {
  for (const auto& [command, action] : actions_) {
    if (command->parsed()) return action();
  }
  usage_error("no command given; see edgewise --help");
}

std::string both_spellings(const std::string& flag) {
  std::string snake;
  std::string camel;
  for (size_t i = 0; i < flag.size(); ++i) {
    const char c = flag[i];
    // A run of capitals is one word: maxKVCacheCapacity is max_kv_cache_capacity.
    const bool upper = std::isupper(static_cast<unsigned char>(c)) != 0;
    const bool after_lower = i > 0 && std::islower(static_cast<unsigned char>(flag[i - 1])) != 0;
    const bool before_lower = i + 1 < flag.size() && std::islower(static_cast<unsigned char>(flag[i + 1])) != 0;
    if (upper && i > 0 && (after_lower || before_lower)) snake += '_';
    snake += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    if (c == '_') continue;
    camel += i > 0 && flag[i - 1] == '_' ? static_cast<char>(std::toupper(static_cast<unsigned char>(c))) : c;
  }
  std::string names = "--" + flag;
  if (snake != flag) names += ",--" + snake;
  if (camel != flag && camel != snake) names += ",--" + camel;
  return names;
}

}  // namespace edgewise
