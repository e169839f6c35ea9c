// Any bytes as a request file of the embedded model: an error for the file, for one request, or ids to run.
#include <unistd.h>

#include <filesystem>

#include "base/error.h"
#include "cli/pipeline.h"
#include "cli/request_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace edgewise;
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
  try {
    const RequestFile file = parse_request_file({reinterpret_cast<const char*>(data), size}, "fuzz.json", session);
    std::vector<Completion> completions;
    for (const FileRequest& entry : file.requests) {
      if (entry.error.empty()) completions.emplace_back();
    }
    (void)response_document(file, completions).dump();
  } catch (const Error&) {
  }
  return 0;
}
