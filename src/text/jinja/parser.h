#pragma once

#include <string>
#include <string_view>

#include "text/jinja/ast.h"

namespace edgewise::jinja {

// Throws Error(kBadFile), or Error(kUnsupported) for inheritance and includes, as "name:line: ...".
Body parse(std::string_view source, const std::string& name);

}  // namespace edgewise::jinja
