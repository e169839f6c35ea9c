#include "base/error.h"
#include "cli/command.h"
#include "cli/pipeline.h"
#include "hub/hub.h"
#include "models/merge_adapter.h"

namespace edgewise {

void add_merge(Commands& commands) {
  CLI::App& command = commands.add("merge", "write a checkpoint with a LoRA adapter's changes in its weights",
                                   "edgewise merge --model_dir models/edge-tiny-16m --lora_dir "
                                   "models/edge-tiny-16m-lora-upper --output_dir out/upper");
  struct MergeFlags {
    std::string model;
    std::string dtype;
    MergeRequest request;
  };
  auto flags = std::make_shared<MergeFlags>();
  add_flag(command, "model_dir", flags->model, "checkpoint directory or hub name of the base")->required();
  add_flag(command, "lora_dir", flags->request.adapter_dir, "directory of a PEFT adapter")->required();
  add_flag(command, "output_dir", flags->request.output_dir, "directory to write")->required();
  add_flag(command, "dtype", flags->dtype, "fp32, fp16 or bf16 for float weights (default: the base's)");
  commands.on_run(command, [flags] {
    MergeRequest& request = flags->request;
    request.model_dir = resolve_model(flags->model);
    if (!flags->dtype.empty()) request.dtype = parse_float_dtype(flags->dtype, DType::kF32);
    const size_t modules = merge_adapter(request);
    fmt::print("merged {} modules of {} into {}\n", modules, request.adapter_dir.string(), request.output_dir.string());
    return 0;
  });
}

}  // namespace edgewise
