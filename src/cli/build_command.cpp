#include <charconv>

#include "base/error.h"
#include "cli/build_flags.h"
#include "cli/command.h"
#include "cli/pipeline.h"
#include "onnx/export.h"

namespace edgewise {
namespace {

void print_report(const BuildReport& report, const std::filesystem::path& engine) {
  for (const PassReport& pass : report.passes) {
    fmt::print("  pass {:<24} {:4} changes  {:7.1f} ms\n", pass.name, pass.changes, pass.seconds * 1e3);
  }
  fmt::print("  {} operators, {} kernels timed, self-test error {:.1e}\n", report.operators, report.kernels_timed,
             report.self_test_error);
  fmt::print("built {} ({:.1f} MB) in {:.1f} s\n", engine.string(), static_cast<double>(report.engine_bytes) / 1e6,
             report.seconds);
}

}  // namespace

void add_build_flags(CLI::App& command, BuildFlags& flags) {
  BuildOptions& o = flags.options;
  add_flag(command, "maxBatchSize", o.max_batch_size, "sequences side by side");
  add_flag(command, "maxInputLen", o.max_input_length, "tokens of the longest prompt");
  add_flag(
      command, "maxKVCacheCapacity", flags.kv_capacity,
      "tokens of cache for each sequence, prompt and answer; auto: up to the model's context, as many as fit when the "
      "engine is loaded, on a GPU into what weights and activations leave, else into half of the free memory");
  add_flag(command, "kvCachePolicy", o.kv_policy, "linear (each sequence's pages reserved) or paged (on demand)");
  add_flag(command, "kvDtype", flags.kv_dtype,
           "KV cache in fp32, fp16, bf16, fp8 or int8 (default: as the checkpoint asks, else bf16)");
  add_flag(command, "device", o.device,
           "cpu, cuda (where it was built in), reference, or check (cpu and reference, compared operator by operator)");
  add_flag(command, "timingCache", o.timing_cache, "file that keeps kernel timings");
  add_flag(command, "optLevel", o.opt_level, "0: skip kernel timing");
  command.add_option(both_spellings("disablePass"), flags.disabled, "passes to leave out");
}

DType parse_kv_dtype(const std::string& name) {
  if (name == "fp8") return DType::kF8E4M3;
  if (name == "int8") return DType::kI8;
  if (name == "fp32") return DType::kF32;
  if (name == "fp16") return DType::kF16;
  if (name == "bf16") return DType::kBF16;
  usage_error("--kvDtype {}: expected fp32, fp16, bf16, fp8 or int8", name);
}

int parse_kv_capacity(const std::string& text) {
  if (text == "auto") return 0;
  int tokens = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), tokens);
  if (error != std::errc() || end != text.data() + text.size() || tokens < 1)
    usage_error("--maxKVCacheCapacity {}: expected a positive number of tokens, or auto", text);
  return tokens;
}

BuildOptions BuildFlags::take() const {
  BuildOptions result = options;
  result.kv_capacity = parse_kv_capacity(kv_capacity);
  if (!kv_dtype.empty()) result.kv_dtype = parse_kv_dtype(kv_dtype);
  result.disabled_passes = {disabled.begin(), disabled.end()};
  return result;
}

void add_build(Commands& commands) {
  CLI::App& command =
      commands.add("build", "compile an ONNX directory into an engine for this machine",
                   "edgewise build --onnxDir out/onnx --engineDir out/engine --maxKVCacheCapacity 2048");
  auto flags = std::make_shared<BuildFlags>();
  auto onnx = std::make_shared<std::filesystem::path>();
  auto engine = std::make_shared<std::filesystem::path>();
  add_flag(command, "onnxDir", *onnx, "directory with model.onnx")->required();
  add_flag(command, "engineDir", *engine, "directory to write")->required();
  auto eagle = std::make_shared<bool>(false);
  command.add_flag(both_spellings("eagleBase") + "," + both_spellings("eagleDraft"), *eagle,
                   "the directory must hold a draft head, which is built with its model in any case");
  add_build_flags(command, *flags);
  commands.on_run(command, [flags, onnx, engine, eagle] {
    if (*eagle && !std::filesystem::exists(*onnx / kDraftFile)) {
      usage_error(
          "{}: no {}; `edgewise export --model_dir MODEL --draft_model_dir HEAD` writes both into one directory",
          onnx->string(), kDraftFile);
    }
    print_report(build_engine(*onnx, *engine, flags->take()), *engine);
    return 0;
  });
}

}  // namespace edgewise
