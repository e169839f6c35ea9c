// Oniguruma's regular expression dialect (Ruby syntax), as tokenizer.json files use it, written for PCRE2.
#pragma once

#include <string>
#include <string_view>

namespace edgewise::tok {

// The pattern in PCRE2's dialect, to be compiled with UTF, UCP and MULTILINE. Classes are written out so that
// both engines give them the same members. Throws Error(kUnsupported), with `where` in the message, for what
// PCRE2 cannot express.
std::string translate_regex(std::string_view pattern, const std::string& where);

// Whether PCRE2 accepts `pattern` (already in its dialect).
bool regex_compiles(const std::string& pattern);

}  // namespace edgewise::tok
