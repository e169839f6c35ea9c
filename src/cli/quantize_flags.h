#pragma once

#include <filesystem>
#include <string>

#include "quantize/quantize.h"

namespace edgewise {

// How to quantize, as flags or as a recipe's keys.
struct QuantizeFlags {
  std::string quantization;
  std::string lm_head;
  std::string kv_cache;
  int64_t group_size = 128;
  CalibrationOptions calibration;

  // Throws Error(kUsage) naming the flag that is wrong.
  QuantizeRequest take(const std::filesystem::path& model_dir, const std::filesystem::path& output_dir) const;
};

}  // namespace edgewise
