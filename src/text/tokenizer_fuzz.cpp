// Feeds arbitrary bytes as a tokenizer.json and uses what comes of it.
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "text/stream_decoder.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr std::string_view kText = "Hello <s> w\xC3\xB6rld's 123,\t \xE4\xBD\xA0\xE5\xA5\xBD e\xCC\x81 aaab\xFF!\r\n";
  try {
    const auto tokenizer = edgewise::Tokenizer::parse({reinterpret_cast<const char*>(data), size}, "fuzz.json");
    std::vector<int32_t> ids = tokenizer.encode(kText, true);
    for (int32_t id = 0; id < 20; ++id) ids.push_back(id);
    tokenizer.decode(ids, true);
    edgewise::StreamDecoder decoder(tokenizer, false);
    for (const int32_t id : ids) decoder.push(id);
    decoder.flush();
  } catch (const edgewise::Error&) {
    // What a bad file is answered with.
  }
  return 0;
}
