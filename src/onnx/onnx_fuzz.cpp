// Any bytes as model.onnx: an error or a graph that verifies.
#include "base/error.h"
#include "onnx/import.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace edgewise;
  try {
    const Graph graph = import_onnx(OnnxFile::parse(std::as_bytes(std::span(data, size)), "nowhere/model.onnx"));
    verify_graph(graph);
  } catch (const Error&) {
  }
  return 0;
}
