#include "cli/recipe.h"

#include <algorithm>
#include <set>

#include "base/error.h"
#include "formats/yaml.h"

namespace edgewise {
namespace {

const std::set<std::string> kKeys = {
    "model_dir",  "quantization", "group_size",     "lm_head",       "calib_dataset",         "kv_cache",
    "calib_size", "dtype",        "max_batch_size", "max_input_len", "max_kv_cache_capacity", "kv_cache_policy",
    "kv_dtype",   "device",       "timing_cache",   "opt_level"};

// The last of a flag's spellings is the snake_case one, whichever it was given in.
std::string snake_case(const std::string& key) {
  const std::string names = both_spellings(key);
  const size_t second = names.find(",--");
  const bool is_snake = std::none_of(key.begin(), key.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
  return is_snake || second == std::string::npos ? key : names.substr(second + 3);
}

}  // namespace

Json read_recipe(const std::filesystem::path& file) {
  const Json document = read_yaml_file(file);
  if (!document.is_object()) bad_file("{}: expected keys and values", file.string());
  Json result = Json::object();
  for (const auto& [key, value] : document.items()) {
    const std::string name = snake_case(key);
    if (!kKeys.contains(name))
      bad_file("{}: unknown key {}; expected one of {}", file.string(), key, fmt::join(kKeys, ", "));
    if (value.is_structured() || value.is_null()) bad_file("{}: {}: expected a single value", file.string(), key);
    result[name] = value;
  }
  return result;
}

std::vector<std::string> expand_recipe(std::vector<std::string> arguments, const CLI::App& app) {
  const auto config = std::find(arguments.begin(), arguments.end(), "--config");
  if (config == arguments.end() || arguments.empty()) return arguments;
  if (config + 1 == arguments.end()) usage_error("--config: expected a recipe file");
  const Json recipe = read_recipe(*(config + 1));
  arguments.erase(config, config + 2);
  const auto named =
      app.get_subcommands([&](const CLI::App* candidate) { return candidate->check_name(arguments[0]); });
  if (named.empty()) return arguments;
  const CLI::App* command = named[0];
  for (const auto& [key, value] : recipe.items()) {
    const CLI::Option* option = command->get_option_no_throw("--" + key);
    if (option == nullptr) continue;  // another stage's
    const bool given = std::any_of(arguments.begin(), arguments.end(), [&](const std::string& argument) {
      return argument.starts_with("--") && option->check_lname(argument.substr(2, argument.find('=') - 2));
    });
    if (given) continue;
    arguments.push_back("--" + key);
    arguments.push_back(value.is_string() ? value.get<std::string>() : value.dump());
  }
  return arguments;
}

}  // namespace edgewise
