// Any bytes as an engine file, and any bytes as the plan of one whose header and checksum are right.
#include <unistd.h>

#include <filesystem>

#include "base/error.h"
#include "base/output_file.h"
#include "engine/engine_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace edgewise;
  static const auto path = std::filesystem::temp_directory_path() / ("edgewise-fuzz-" + std::to_string(::getpid()));
  const auto bytes = std::as_bytes(std::span(data, size));
  for (const bool sealed : {false, true}) {
    try {
      if (sealed) {
        const auto file = seal_engine_plan(bytes);
        write_text_file(path, {reinterpret_cast<const char*>(file.data()), file.size()});
      } else {
        write_text_file(path, {reinterpret_cast<const char*>(data), size});
      }
      const Engine engine = read_engine(path);
      verify_graph(engine.graph);
    } catch (const Error&) {
    }
  }
  return 0;
}
