// Graph -> ONNX in standard operators: opset 23, IR 10, external data. docs/onnx.md shows the forms.
#pragma once

#include <filesystem>

#include "graph/graph.h"

namespace edgewise {

struct ExportOptions {
  bool dequantize = false;  // --oracle: quantized weights as float32, for runtimes without their kernels
};

// Writes model.onnx and model.onnx.data into an existing directory, one weight in memory at a time.
void export_onnx(const Graph& graph, const std::filesystem::path& directory, const ExportOptions& options = {});

}  // namespace edgewise
