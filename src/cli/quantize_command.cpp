#include <chrono>

#include "base/error.h"
#include "cli/command.h"
#include "cli/quantize_flags.h"
#include "hub/hub.h"

namespace edgewise {

QuantizeRequest QuantizeFlags::take(const std::filesystem::path& model_dir,
                                    const std::filesystem::path& output_dir) const {
  QuantizeRequest request{model_dir, output_dir, scheme_from_name(quantization, group_size), false, {}, calibration};
  if (!lm_head.empty() && lm_head != quantization) {
    usage_error("--lm_head {}: expected the format of the other weights, {}", lm_head, quantization);
  }
  request.lm_head = !lm_head.empty();
  if (kv_cache != "" && kv_cache != "fp8" && kv_cache != "int8")
    usage_error("--kv_cache {}: expected fp8 or int8", kv_cache);
  if (!kv_cache.empty()) request.kv_cache = kv_cache == "fp8" ? DType::kF8E4M3 : DType::kI8;
  return request;
}

namespace {

int quantize(const std::string& model, const std::filesystem::path& output_dir, const QuantizeFlags& flags) {
  const auto start = std::chrono::steady_clock::now();
  const QuantizeRequest request = flags.take(resolve_model(model), output_dir);
  const QuantizeReport report = quantize_checkpoint(request);
  fmt::print("quantized {} Linears to {} ({:.2f} bits a weight): {:.1f} MB -> {:.1f} MB", report.linears,
             flags.quantization, request.scheme.bits_per_weight(), static_cast<double>(report.bytes_before) / 1e6,
             static_cast<double>(report.bytes_after) / 1e6);
  if (report.output_error > 0) fmt::print(", output error {:.2f}% on the calibration text", report.output_error * 100);
  fmt::print("; {:.1f} s\n", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  if (report.experts > 0) {
    fmt::print(stderr,
               "note: the {} experts of each mixture stay in the checkpoint's type; only attention is quantized\n",
               report.experts);
  }
  return 0;
}

}  // namespace

void add_quantize(Commands& commands) {
  CLI::App& command = commands.add(
      "quantize",
      "write a checkpoint with weights in fewer bits (compressed-tensors, as vLLM and transformers read it)",
      "edgewise quantize --model_dir models/edge-tiny-16m --output_dir out/int4 --quantization int4_awq --group_size "
      "32");
  auto flags = std::make_shared<QuantizeFlags>();
  auto model = std::make_shared<std::string>();
  auto output_dir = std::make_shared<std::filesystem::path>();
  add_flag(command, "model_dir", *model, "checkpoint directory or hub name")->required();
  add_flag(command, "output_dir", *output_dir, "directory to write")->required();
  add_flag(command, "quantization", flags->quantization, "fp8, int8, int8_sq, int4_awq, int4_gptq, int4_rtn or nvfp4")
      ->required();
  add_flag(command, "lm_head", flags->lm_head, "the output head too, rounded to nearest in the same format");
  add_flag(command, "kv_cache", flags->kv_cache,
           "keep the KV cache in fp8 or int8 too; engines built from the checkpoint then do");
  add_flag(command, "calib_dataset", flags->calibration.dataset,
           "JSON lines with \"messages\" or \"text\", or plain text (default: built-in chats)");
  add_flag(command, "calib_size", flags->calibration.samples, "samples of calibration text");
  add_flag(command, "group_size", flags->group_size, "columns that share a scale in int4: 32, 64 or 128");
  commands.on_run(command, [=] { return quantize(*model, *output_dir, *flags); });
}

}  // namespace edgewise
