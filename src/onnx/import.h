// ONNX -> Graph: recognizes the forms that export writes, and refuses the rest by operator and node name.
#pragma once

#include <filesystem>

#include "graph/graph.h"
#include "onnx/onnx_file.h"

namespace edgewise {

// The [batch, sequence] axes of the file become one axis of tokens. Constants map the external data.
// Throws Error(kUnsupported) naming operator and node, Error(kBadFile) for a file that contradicts itself.
Graph import_onnx(const std::filesystem::path& path);
Graph import_onnx(const OnnxFile& file);

}  // namespace edgewise
