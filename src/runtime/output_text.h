// The text of an answer as its tokens arrive: whole characters, cut before the first stop string.
#pragma once

#include <string>
#include <vector>

#include "text/stream_decoder.h"

namespace edgewise {

class OutputText {
 public:
  // Special tokens are left out but for `shown`.
  OutputText(const Tokenizer& tokenizer, std::vector<std::string> stop, std::vector<int32_t> shown = {});

  // Text that is now certain: what may be the beginning of a stop string waits.
  std::string push(int32_t token);
  // The rest, after the last token.
  std::string finish();
  bool stopped() const { return stopped_; }
  const std::string& text() const { return text_; }

 private:
  std::string release(std::string fresh, bool last);

  StreamDecoder decoder_;
  std::vector<std::string> stop_;
  std::vector<int32_t> shown_;
  std::string held_;
  std::string text_;
  bool stopped_ = false;
};

}  // namespace edgewise
