#include <chrono>

#include "base/error.h"
#include "cli/command.h"
#include "cli/pipeline.h"
#include "hub/hub.h"
#include "quantize/quantize.h"

namespace edgewise {
namespace {

struct QuantizeFlags {
  std::string model;
  std::string quantization;
  std::string lm_head;
  int64_t group_size = 128;
  QuantizeRequest request;
};

int quantize(QuantizeFlags& flags) {
  const auto start = std::chrono::steady_clock::now();
  flags.request.model_dir = resolve_model(flags.model);
  flags.request.scheme = scheme_from_name(flags.quantization, flags.group_size);
  if (!flags.lm_head.empty()) {
    if (flags.lm_head != flags.quantization) {
      usage_error("--lm_head {}: expected the format of the other weights, {}", flags.lm_head, flags.quantization);
    }
    flags.request.lm_head = true;
  }
  const QuantizeReport report = quantize_checkpoint(flags.request);
  fmt::print("quantized {} Linears to {} ({:.2f} bits a weight): {:.1f} MB -> {:.1f} MB", report.linears, flags.quantization,
             flags.request.scheme.bits_per_weight(), static_cast<double>(report.bytes_before) / 1e6,
             static_cast<double>(report.bytes_after) / 1e6);
  if (report.output_error > 0) fmt::print(", output error {:.2f}% on the calibration text", report.output_error * 100);
  fmt::print("; {:.1f} s\n", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return 0;
}

}  // namespace

void add_quantize(Commands& commands) {
  CLI::App& command =
      commands.add("quantize", "write a checkpoint with weights in fewer bits (compressed-tensors, as vLLM and transformers read it)",
                   "edgewise quantize --model_dir models/edge-tiny-16m --output_dir out/int4 --quantization int4_awq --group_size 32");
  auto flags = std::make_shared<QuantizeFlags>();
  add_flag(command, "model_dir", flags->model, "checkpoint directory or hub name")->required();
  add_flag(command, "output_dir", flags->request.output_dir, "directory to write")->required();
  add_flag(command, "quantization", flags->quantization, "fp8, int8, int8_sq, int4_awq, int4_gptq, int4_rtn or nvfp4")->required();
  add_flag(command, "lm_head", flags->lm_head, "the output head too, rounded to nearest in the same format");
  add_flag(command, "calib_dataset", flags->request.calibration.dataset,
           "JSON lines with \"messages\" or \"text\", or plain text (default: built-in chats)");
  add_flag(command, "calib_size", flags->request.calibration.samples, "samples of calibration text");
  add_flag(command, "group_size", flags->group_size, "columns that share a scale in int4: 32, 64 or 128");
  commands.on_run(command, [flags] { return quantize(*flags); });
}

}  // namespace edgewise
