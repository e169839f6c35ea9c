// Normalizers: what a tokenizer does to text before it looks for tokens in it.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "formats/json.h"

namespace edgewise::tok {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // Replaces `text`, which is well-formed UTF-8 before and after. `at_origin` says whether the first
  // character stems from the first character of the whole input; it is updated.
  virtual void apply(std::string& text, bool& at_origin) const = 0;
  // Whether apply() would surely leave `text` as it is; a cheap test that may say no in doubt.
  virtual bool keeps(std::string_view text) const = 0;
};

// Reads a "normalizer" section. Throws Error(kUnsupported) for an unknown type, Error(kBadFile) otherwise.
std::unique_ptr<const Normalizer> read_normalizer(const JsonView& view);

// Throws Error(kUnsupported) when rules of a file blew text up out of all proportion, which only a hostile
// file does.
void check_growth(size_t before, size_t after);

}  // namespace edgewise::tok
