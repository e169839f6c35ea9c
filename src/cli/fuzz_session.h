// A session on the embedded model for the fuzz targets of requests.
#pragma once

#include "base/fuzz_file.h"
#include "cli/pipeline.h"
#include "runtime/session.h"

namespace edgewise {

inline const Session& fuzz_session() {
  static const Session session = [] {
    const auto folder = fuzz_path("fuzz_session");
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

// Before the first input: building an engine is no part of its time.
extern "C" int LLVMFuzzerInitialize(int*, char***) {
  edgewise::fuzz_session();
  return 0;
}
