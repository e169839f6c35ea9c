// Hand-written scanners for the split patterns nearly every byte-level tokenizer uses. Each returns the same
// matches as the regular expression it stands for, without running one.
#pragma once

#include <cstddef>
#include <string_view>

namespace edgewise::tok {

// End of the match that starts at `pos` < text.size(). The patterns match at every position, without gaps.
using SplitScanner = size_t (*)(std::string_view text, size_t pos);

extern const std::string_view kGpt2Pattern;
extern const std::string_view kLlama3Pattern;
extern const std::string_view kQwen2Pattern;

// nullptr when `pattern` is none of the known ones, compared byte by byte.
SplitScanner find_split_scanner(std::string_view pattern);

}  // namespace edgewise::tok
