#pragma once

#include <filesystem>

#include "backends/backend.h"
#include "engine/engine_file.h"

namespace edgewise {

// Relative L2 distance of the engine's logits from the reference backend's on a short prompt, with the larger of
// all positions. `plain` is the graph before packing.
double self_test_error(const Graph& plain, const Engine& engine, const Backend& backend);

// What rounding explains for this graph: float weights differ by sums' order and the cache's dtype, integer weights
// also by their int8 activations.
double self_test_tolerance(const Graph& plain, DType kv_dtype);

}  // namespace edgewise
