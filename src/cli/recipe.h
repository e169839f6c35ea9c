// Recipes: a YAML file whose keys are the flags of quantize, export and build.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "cli/command.h"
#include "formats/json.h"

namespace edgewise {

// The recipe as an object with keys in snake_case. Throws Error(kBadFile) naming a key that is no flag.
Json read_recipe(const std::filesystem::path& file);

// `arguments` of a command line with "--config FILE" replaced by those of the recipe's flags that the subcommand has
// and the command line does not give itself.
std::vector<std::string> expand_recipe(std::vector<std::string> arguments, const CLI::App& app);

}  // namespace edgewise
