// main() of small programs.
#pragma once

#include <fmt/format.h>

#include <cstdio>

#include "base/error.h"

namespace edgewise {

// The exit code of `run`, or 1 with its error on standard error.
inline int report_errors(const char* program, int (*run)(int argc, char** argv), int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const Error& error) {
    fmt::print(stderr, "{}: {}\n", program, error.what());
    return 1;
  }
}

}  // namespace edgewise
