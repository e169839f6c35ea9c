// Pre-tokenizers: how a tokenizer cuts text into the words its model then tokenizes one by one.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "formats/json.h"
#include "text/regex.h"

namespace edgewise::tok {

// A stretch of text, or an added token found in it.
struct Piece {
  size_t begin;
  size_t end;
  int32_t id = -1;         // of the added token; -1 for text
  bool at_origin = false;  // starts with the first character of the whole input
};

// The pieces of one input. Buffers are kept between inputs, so that encoding does not allocate.
struct Pieces {
  std::string_view text;    // what the pieces index
  std::vector<Piece> list;  // text pieces are never empty
  size_t input_size = 0;    // bytes of the whole input, the measure for growth

  // Starts a rewrite of the text; the string returned is valid until the next but one rewrite.
  std::string& other_buffer();

  std::vector<Piece> next;     // scratch
  std::vector<Match> matches;  // scratch

 private:
  std::string buffers_[2];
  int current_ = 0;
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void apply(Pieces& pieces) const = 0;

  // Whether the last thing this does is to write bytes as GPT-2's symbols.
  virtual bool writes_byte_symbols() const { return false; }
  // Stops doing that, because the model takes the bytes themselves.
  virtual void hand_over_bytes() {}
};

// Reads a "pre_tokenizer" section; Error(kUnsupported) for an unknown type, Error(kBadFile) otherwise.
std::unique_ptr<PreTokenizer> read_pre_tokenizer(const JsonView& view);

}  // namespace edgewise::tok
