#include <unistd.h>

#include "base/error.h"
#include "bench/verify.h"
#include "cli/command.h"
#include "cli/pipeline.h"
#include "hub/hub.h"

namespace edgewise {
namespace {

struct VerifyFlags {
  std::string model;
  std::filesystem::path golden;
  std::string backend = "cpu";
  std::string dtype = "fp32";
};

// A directory of our own that goes away with its contents.
class TemporaryDirectory {
 public:
  TemporaryDirectory() : path_(std::filesystem::temp_directory_path() / fmt::format("edgewise-verify-{}", ::getpid())) {
    std::filesystem::create_directories(path_);
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

int verify(const VerifyFlags& flags) {
  const TemporaryDirectory work;
  const DType dtype = parse_float_dtype(flags.dtype, DType::kF32);
  export_model({resolve_model(flags.model), {}, work.path() / "onnx", flags.dtype, false});
  BuildOptions options;
  options.device = flags.backend;
  options.kv_dtype = dtype;
  options.opt_level = 0;
  build_engine(work.path() / "onnx", work.path() / "engine", options);
  const Engine engine = read_engine(work.path() / "engine" / kEngineFileName);
  const VerifyTolerance tolerance = verify_tolerance(dtype);
  const VerifyResult r = verify_engine(engine, flags.golden, tolerance.noise);
  const bool good = within(r, tolerance);
  fmt::print(
      "{}  {} {}: {} prompts, {} rows; max relative error {:.2e} (limit {:.0e}), KL {:.2e} (limit {:.0e}), greedy "
      "{}/{} "
      "equal, {} beyond rounding\n",
      good ? "ok  " : "FAIL", flags.backend, flags.dtype, r.prompts, r.rows, r.max_relative_error,
      tolerance.relative_error, r.mean_kl, tolerance.kl, r.greedy_equal, r.greedy_tokens, r.greedy_wrong);
  return good ? 0 : 1;
}

}  // namespace

void add_verify(Commands& commands) {
  CLI::App& command = commands.add(
      "verify",
      "run a checkpoint through export, build and execution and compare with a golden file (exit 0, 1; 2: can't run)",
      "edgewise verify models/edge-tiny-16m --golden models/edge-tiny-16m/golden.safetensors --backend cpu --dtype "
      "bf16");
  auto flags = std::make_shared<VerifyFlags>();
  command.add_option("model", flags->model, "checkpoint directory or hub name")->required();
  add_flag(command, "golden", flags->golden, "safetensors file with prompts, logits and greedy tokens")->required();
  add_flag(command, "backend", flags->backend,
           "cpu, cuda (where it was built in), reference, or check (cpu and reference, compared operator by operator)");
  add_flag(command, "dtype", flags->dtype, "fp32, fp16 or bf16 for float weights and the KV cache");
  commands.on_run(command, [flags] { return verify(*flags); });
}

}  // namespace edgewise
