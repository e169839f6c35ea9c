#include "text/stream_decoder.h"

#include "text/decoder.h"

namespace edgewise {

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
    : tokenizer_(&tokenizer), skip_special_tokens_(skip_special_tokens), stream_(tokenizer.open_decoder()) {}

StreamDecoder::~StreamDecoder() = default;
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;

std::string StreamDecoder::push(int32_t id, bool shown) {
  const bool skip_special = skip_special_tokens_ && !shown;
  if (const std::string* token = tokenizer_->decoded_token(id, skip_special)) stream_->token(*token);
  return stream_->take();
}

std::string StreamDecoder::flush() {
  stream_->finish();
  std::string rest = stream_->take();
  stream_ = tokenizer_->open_decoder();
  return rest;
}

}  // namespace edgewise
