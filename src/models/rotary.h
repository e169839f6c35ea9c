// Rotary position embedding frequencies of every published kind.
#pragma once

#include <vector>

#include "formats/json.h"

namespace edgewise {

struct RotaryFrequencies {
  std::vector<float> inv_freq;       // [rotary_dim / 2], radians a position
  std::vector<float> long_inv_freq;  // LongRoPE: for sequences longer than `threshold` tokens; else empty
  double scale = 1.0;                // multiplies cos and sin (the "attention factor")
  double long_scale = 1.0;
  int64_t threshold = 0;
};

// The parameters in transformers 5 style: {"rope_type", "rope_theta", "factor", ...}.
// Types: default, linear, dynamic (as default up to max_position_embeddings), llama3, yarn (arXiv:2309.00071),
// longrope (arXiv:2402.13753). Throws Error(kUnsupported) for another type.
RotaryFrequencies rotary_frequencies(const JsonView& parameters, int64_t rotary_dim, int64_t max_positions);

}  // namespace edgewise
