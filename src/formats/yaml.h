// YAML documents, as recipes are written in, read into JSON values.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "formats/json.h"

namespace edgewise {

// One document. Plain scalars become what YAML's core schema says: null, true, 12, 0x1f, 1.5e3, .inf; all else, and
// everything in quotes, is a string. Keys must be scalars and stand once; "<<" does not merge. Anchors and aliases
// work within bounds on depth and size.
// Throws Error(kBadFile) as "source:line: ...".
Json parse_yaml(std::string_view text, const std::string& source);
Json read_yaml_file(const std::filesystem::path& path);

}  // namespace edgewise
