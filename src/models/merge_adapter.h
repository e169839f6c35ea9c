// An adapter made part of its base model: W + scale * B A.
#pragma once

#include <filesystem>
#include <optional>

#include "base/dtype.h"

namespace edgewise {

struct MergeRequest {
  std::filesystem::path model_dir;
  std::filesystem::path adapter_dir;
  std::filesystem::path output_dir;
  std::optional<DType> dtype;  // of the changed weights; none: as the base has them
};

// Writes a checkpoint and returns how many modules changed. Sums are float64, rounded once. A head tied to the
// embedding that the adapter changes becomes a matrix of its own. Throws Error(kUnsupported) for a quantized base,
// Error(kUsage) naming modules the base lacks, Error(kBadFile) for matrices of other shapes.
size_t merge_adapter(const MergeRequest& request);

}  // namespace edgewise
