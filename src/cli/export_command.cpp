#include <chrono>

#include "base/error.h"
#include "cli/command.h"
#include "cli/pipeline.h"
#include "hub/hub.h"

namespace edgewise {

void add_export(Commands& commands) {
  CLI::App& command = commands.add("export", "write a checkpoint as ONNX, with its config, tokenizer and chat template",
                                   "edgewise export --model_dir models/edge-tiny-16m --output_dir out/onnx");
  auto request = std::make_shared<ExportRequest>();
  auto model = std::make_shared<std::string>();
  auto draft = std::make_shared<std::string>();
  command
      .add_option(both_spellings("model_dir") + "," + both_spellings("base_model_dir"), *model,
                  "checkpoint directory or hub name")
      ->required();
  add_flag(command, "draft_model_dir", *draft, "EAGLE-3 head of the model, for speculative decoding");
  add_flag(command, "output_dir", request->output_dir, "directory to write")->required();
  add_flag(command, "dtype", request->dtype, "fp32, fp16 or bf16 for float weights (default: the checkpoint's)");
  add_flag(command, "reduced_vocab_dir", request->reduced_vocab_dir,
           "directory that reduce-vocab wrote: only its tokens get logits");
  command.add_flag("--oracle", request->oracle, "dequantize to float32, for runtimes without kernels for the format");
  commands.on_run(command, [request, model, draft] {
    const auto start = std::chrono::steady_clock::now();
    request->model_dir = resolve_model(*model);
    if (!draft->empty()) request->draft_model_dir = resolve_model(*draft);
    export_model(*request);
    fmt::print("exported {} to {} in {:.1f} s\n", request->model_dir.string(), request->output_dir.string(),
               std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    return 0;
  });
}

}  // namespace edgewise
