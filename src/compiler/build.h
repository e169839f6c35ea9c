// ONNX -> engine: import, passes, packing, tactic timing, self-test.
#pragma once

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "compiler/passes.h"
#include "engine/engine_file.h"

namespace edgewise {

struct BuildOptions {
  std::string device = "cpu";
  int max_batch_size = 1;
  int max_input_length = 1024;  // tokens of one prompt
  int kv_capacity = 2048;       // tokens of cache for each sequence of the batch; 0: decided at load
  std::string kv_policy = "linear";
  std::optional<DType> kv_dtype;       // of the KV cache; none: what config.json's kv_cache_scheme asks for, else bf16
  std::filesystem::path timing_cache;  // empty: none
  int opt_level = 1;                   // 0: the backend's first guess for each kernel, untimed
  std::set<std::string> disabled_passes;
};

struct BuildReport {
  std::vector<PassReport> passes;
  int operators = 0;
  int kernels_timed = 0;
  uint64_t engine_bytes = 0;
  double self_test_error = 0;  // |engine - reference| / |reference| over the logits of a short prompt
  double seconds = 0;
};

// Builds from DIRECTORY/model.onnx into ENGINE_DIR and copies the tokenizer, config and chat template beside it.
// An engine that fails its self-test is not written. Throws Error.
BuildReport build_engine(const std::filesystem::path& onnx_dir, const std::filesystem::path& engine_dir,
                         const BuildOptions& options);

}  // namespace edgewise
