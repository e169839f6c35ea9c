// The embedded model as ONNX in a directory of the test's own, for tests that build engines of it.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <string>

#include "compiler/build.h"
#include "models/families.h"
#include "onnx/export.h"

namespace edgewise {

// A fresh directory, with the model in its folder "onnx".
inline std::filesystem::path export_embedded_model(const std::string& test) {
  namespace fs = std::filesystem;
  const fs::path directory = fs::temp_directory_path() / ("edgewise-" + test + "-" + std::to_string(::getpid()));
  fs::create_directories(directory / "onnx");
  const fs::path model = fs::path(EDGEWISE_SOURCE_DIR) / "models/edge-tiny-16m";
  const Checkpoint checkpoint = Checkpoint::open(model);
  const DecoderSpec spec = describe_model(checkpoint.config(), checkpoint.config_path());
  export_onnx(build_decoder(spec, checkpoint, {DType::kBF16}), directory / "onnx", {});
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "config.json"})
    fs::copy(model / name, directory / "onnx");
  return directory;
}

// Four answers side by side in small paged caches, in the folder "engine".
inline void build_small_engine(const std::filesystem::path& directory) {
  BuildOptions options;
  options.max_batch_size = 4;
  options.max_input_length = 200;
  options.kv_capacity = 256;
  options.kv_policy = "paged";
  options.opt_level = 0;
  build_engine(directory / "onnx", directory / "engine", options);
}

}  // namespace edgewise
