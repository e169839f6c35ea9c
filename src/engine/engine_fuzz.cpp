// Any bytes as an engine file, and any bytes as the plan of one whose header and checksum are right.
#include "base/error.h"
#include "base/fuzz_file.h"
#include "engine/engine_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace edgewise;
  static const auto path = fuzz_path("engine_fuzz");
  const auto bytes = std::as_bytes(std::span(data, size));
  for (const bool sealed : {false, true}) {
    try {
      if (sealed) {
        const auto file = seal_engine_plan(bytes);
        write_fuzz_file(path, {reinterpret_cast<const char*>(file.data()), file.size()});
      } else {
        write_fuzz_file(path, {reinterpret_cast<const char*>(data), size});
      }
      const Engine engine = read_engine(path);
      verify_graph(engine.graph);
    } catch (const Error&) {
    }
  }
  return 0;
}
