// LoRA adapters as PEFT saves them: a directory with adapter_config.json and adapter_model.safetensors
// (https://huggingface.co/docs/peft/developer_guides/checkpoint).
#pragma once

#include <filesystem>

#include "formats/companions.h"
#include "graph/low_rank.h"

namespace edgewise {

// `path` is the directory or the safetensors file in it. Weights stay in their type and share the mapped file. Throws
// Error(kUnsupported) naming a field or a tensor of a variant that computes something else (DoRA, biases, embeddings
// ...), and Error(kBadFile) for files that contradict themselves.
Adapter read_adapter(const std::filesystem::path& path);

// Quantizers that divide channels by factors and fold those into other weights (AWQ, SmoothQuant) leave the factors in
// kChannelScalesFile beside the model, a safetensors file: M.input f32 [K] and M.output f32 [n] of a module M.
// Makes an adapter of the float model one of the quantized model: A takes the divided inputs, B gives divided outputs.
void follow_channel_scales(const std::filesystem::path& file, Adapter& adapter);

// Whether the model of a directory, a checkpoint or an engine, was divided so by factors that nobody kept: AutoAWQ
// does, and says nothing of them. Adapters of the float model are not right there, those trained on the checkpoint are.
bool has_unknown_channel_scales(const std::filesystem::path& directory);

}  // namespace edgewise
