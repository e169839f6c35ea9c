// The values of JSON Schema's "format", as regular expressions.
#pragma once

#include <optional>
#include <string_view>

namespace edgewise::grammar {

// A pattern for the whole string; none for a format that is not known.
std::optional<std::string_view> format_pattern(std::string_view name);

}  // namespace edgewise::grammar
