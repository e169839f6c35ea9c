// The Unicode normalization forms and lower case.
#pragma once

#include <string>
#include <string_view>

namespace edgewise::tok {

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// False when `text` may change; cheap.
bool surely_normalized(std::string_view text, NormalForm form);
void normalize_unicode(std::string& text, NormalForm form);

// Characters are mapped one by one, without regard to their neighbours.
void append_lower(std::string& out, char32_t c);

}  // namespace edgewise::tok
