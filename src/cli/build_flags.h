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
  std::vector<std::string> disabled;

  BuildOptions take() const;
};

// Throws Error(kUsage) listing the names.
DType parse_kv_dtype(const std::string& name);

void add_build_flags(CLI::App& command, BuildFlags& flags);

}  // namespace edgewise
