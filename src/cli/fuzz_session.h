// A session on the embedded model for the fuzz targets of requests.
#pragma once

#include <unistd.h>

#include <filesystem>

#include "cli/pipeline.h"
#include "runtime/session.h"

namespace edgewise {

inline const Session& fuzz_session() {
  static const Session session = [] {
    const auto folder = std::filesystem::temp_directory_path() / ("edgewise-fuzz-" + std::to_string(::getpid()));
    export_model({.model_dir = std::filesystem::path(EDGEWISE_SOURCE_DIR) / "models/edge-tiny-16m",
                  .output_dir = folder / "onnx",
                  .dtype = ""});
    BuildOptions options;
    options.opt_level = 0;
    build_engine(folder / "onnx", folder / "engine", options);
    return Session(folder / "engine", {.threads = 1});
  }();
  return session;
}

}  // namespace edgewise
