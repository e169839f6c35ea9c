// The stages as the commands call them, and `run`'s way of doing whatever is missing.
#pragma once

#include <filesystem>
#include <string>

#include "compiler/build.h"
#include "runtime/session.h"

namespace edgewise {

struct ExportRequest {
  std::filesystem::path model_dir;
  std::filesystem::path draft_model_dir;  // an EAGLE-3 head of the model; empty: none
  std::filesystem::path output_dir;
  std::string dtype;  // fp32, fp16, bf16; empty: the checkpoint's
  bool oracle = false;
  std::filesystem::path reduced_vocab_dir = {};  // with vocab_map.safetensors: only its tokens get logits
};

// Checkpoint directory -> ONNX directory.
void export_model(const ExportRequest& request);

// "fp32", "fp16", "bf16" and their graph spellings; empty gives `fallback`. Throws Error(kUsage).
DType parse_float_dtype(const std::string& name, DType fallback);

// An engine directory from a checkpoint, hub name, recipe (.yaml), ONNX or engine directory. Missing stages are done
// into `cache_dir` and reused when neither their input nor the limits changed; `dtype` is for the export. Progress goes
// to standard error.
std::filesystem::path ensure_engine(const std::filesystem::path& source, const std::filesystem::path& cache_dir,
                                    const BuildOptions& options, const std::string& dtype = "");

// Loads a PEFT adapter and says on standard error how many modules it changes.
void load_adapter(Session& session, const std::string& name, const std::filesystem::path& path);

// $XDG_CACHE_HOME/edgewise or ~/.cache/edgewise.
std::filesystem::path default_cache_dir();

}  // namespace edgewise
