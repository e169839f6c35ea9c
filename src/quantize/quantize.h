// Checkpoint -> quantized checkpoint in the compressed-tensors format.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "quantize/calibration.h"
#include "quantize/scheme.h"

namespace edgewise {

struct QuantizeRequest {
  std::filesystem::path model_dir;
  std::filesystem::path output_dir;
  QuantScheme scheme;
  bool lm_head = false;           // quantize the output head too, rounding to nearest
  std::optional<DType> kv_cache;  // kF8E4M3 or kI8: what engines keep the cache in, with calibrated scales
  CalibrationOptions calibration;
};

struct QuantizeReport {
  int linears = 0;
  int64_t experts = 0;        // of each mixture; their weights stay as they are
  uint64_t bytes_before = 0;  // of the weights, all tensors
  uint64_t bytes_after = 0;
  double output_error = 0;  // relative error of Linear outputs on the calibration text, mean; 0 without calibration
};

// Throws Error(kUnsupported) for a checkpoint that is already quantized, Error(kUsage) for a group size that does not
// divide a layer.
QuantizeReport quantize_checkpoint(const QuantizeRequest& request);

}  // namespace edgewise
