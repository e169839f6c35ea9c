#pragma once

#include <string>
#include <vector>

#include "cli/command.h"
#include "compiler/build.h"

namespace edgewise {

// The limits of an engine as flags, shared by `build` and `run`.
struct BuildFlags {
  BuildOptions options;
  std::string kv_dtype = "bf16";
  std::vector<std::string> disabled;

  BuildOptions take() const;
};

void add_build_flags(CLI::App& command, BuildFlags& flags);

}  // namespace edgewise
