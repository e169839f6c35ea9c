#pragma once

#include <string>
#include <vector>

#include "cli/command.h"
#include "compiler/build.h"

namespace edgewise {

// The limits of an engine as flags, shared by `build` and `run`.
struct BuildFlags {
  BuildOptions options;
  std::string kv_dtype;
  std::string kv_capacity = "2048";
  std::vector<std::string> disabled;

  BuildOptions take() const;
};

// A number of tokens, or "auto", which is 0. Throws Error(kUsage).
int parse_kv_capacity(const std::string& text);
// Throws Error(kUsage) listing the names.
DType parse_kv_dtype(const std::string& name);

void add_build_flags(CLI::App& command, BuildFlags& flags);

}  // namespace edgewise
