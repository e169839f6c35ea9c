// libFuzzer: no text crashes the YAML reader or makes it grow without bound.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "formats/yaml.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    edgewise::parse_yaml({reinterpret_cast<const char*>(data), size}, "fuzz");
  } catch (const edgewise::Error&) {
  }
  return 0;
}
