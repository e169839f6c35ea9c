// LoRA adapters as PEFT saves them: a directory with adapter_config.json and adapter_model.safetensors
// (https://huggingface.co/docs/peft/developer_guides/checkpoint).
#pragma once

#include <filesystem>

#include "graph/low_rank.h"

namespace edgewise {

// `path` is the directory or the safetensors file in it. Weights stay in their type and share the mapped file. Throws
// Error(kUnsupported) naming a field or a tensor of a variant that computes something else (DoRA, biases, embeddings
// ...), and Error(kBadFile) for files that contradict themselves.
Adapter read_adapter(const std::filesystem::path& path);

}  // namespace edgewise
