#include "text/jinja/failure.h"

namespace edgewise::jinja {

void throw_failure(const char* type, fmt::string_view format, fmt::format_args arguments) {
  throw Failure(type, fmt::vformat(format, arguments));
}

}  // namespace edgewise::jinja
