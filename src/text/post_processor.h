// Post-processors: the special tokens around a text.
#pragma once

#include <vector>

#include "formats/json.h"

namespace edgewise::tok {

// Every post-processor of tokenizer.json comes down to fixed ids around one sequence of ids.
class PostProcessor {
 public:
  PostProcessor() = default;  // adds nothing
  // Reads a "post_processor" section. Throws Error(kUnsupported) or Error(kBadFile).
  explicit PostProcessor(const JsonView& view);

  // Adds to `ids`, which holds the text's tokens.
  void apply(std::vector<int32_t>& ids, bool add_special_tokens) const;

 private:
  struct Part {
    bool text;                 // the tokens of the text
    std::vector<int32_t> ids;  // special tokens
  };

  void read(const JsonView& view);
  void read_template(const JsonView& view);
  void read_pair(const JsonView& view);

  std::vector<Part> parts_;  // empty: just the text
};

}  // namespace edgewise::tok
