// libFuzzer: a template, rendered with a fixed conversation, must not crash, hang or grow without bound.
#include <cstddef>
#include <cstdint>
#include <string>

#include "text/chat_template.h"

namespace {

const edgewise::OrderedJson& inputs() {
  static const edgewise::OrderedJson kInputs = edgewise::parse_ordered_json(
      R"({"messages": [{"role": "user", "content": "Hi \u00e9"}, {"role": "assistant", "content": null}],
          "tools": [{"name": "f", "parameters": {"type": "object", "n": [1, 2.5, true]}}], "d": {"b": 1, "a": [[1], 2]},
          "n": 7, "s": "Hello World", "nums": [3, 1, 2], "bos_token": "<s>", "add_generation_prompt": true})",
      "inputs");
  return kInputs;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const std::string source(reinterpret_cast<const char*>(data), size);
    edgewise::ChatTemplate::parse(source, "fuzz").render(inputs());
  } catch (const edgewise::Error&) {
  }
  return 0;
}
