// Graph -> ONNX in standard operators: opset 23, IR 10, external data. docs/onnx.md shows the forms.
#pragma once

#include <filesystem>
#include <string>

#include "graph/graph.h"

namespace edgewise {

// A model, and a draft head where the directory holds one.
inline constexpr const char* kModelFile = "model.onnx";
inline constexpr const char* kDraftFile = "draft.onnx";

struct ExportOptions {
  bool dequantize = false;  // --oracle: quantized weights as float32, for runtimes without their kernels
  std::string file = kModelFile;
};

// Writes options.file and its .data into an existing directory, one weight in memory at a time.
void export_onnx(const Graph& graph, const std::filesystem::path& directory, const ExportOptions& options = {});

}  // namespace edgewise
