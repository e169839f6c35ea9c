// Weights of pre-quantized checkpoints, brought to the one form of LinearWeight: AutoAWQ, GPTQ (with and without
// act-order), FP8 (per tensor, per channel, per block) and compressed-tensors.
#pragma once

#include <string>

#include "models/checkpoint.h"

namespace edgewise {

// The Linear at `module`, float or quantized as its tensors and config.json's quantization_config say.
// Throws Error(kUnsupported) naming the field for a scheme outside these, Error(kBadFile) for shapes that disagree.
LinearWeight read_linear_weight(const Checkpoint& checkpoint, const std::string& module);

}  // namespace edgewise
