// Decoding while tokens are generated.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "text/tokenizer.h"

namespace edgewise {

// The strings from push() and flush(), put together, are decode() of all ids. Each is well-formed UTF-8: a
// character whose bytes are spread over several tokens comes with the last of them, and text that later
// tokens may still change (a run of byte tokens, say) waits until they no longer can.
class StreamDecoder {
 public:
  // `tokenizer` must outlive the decoder.
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens);
  ~StreamDecoder();
  StreamDecoder(StreamDecoder&&) noexcept;

  // The text that `id` completes; often empty or more than one token's. `shown`: also when it is special.
  std::string push(int32_t id, bool shown = false);
  // The rest, once no more ids follow. The decoder then starts anew.
  std::string flush();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  std::unique_ptr<tok::DecodeStream> stream_;
};

}  // namespace edgewise
