#include "base/error.h"

namespace edgewise {

void fail_formatted(ErrorKind kind, fmt::string_view format, fmt::format_args arguments) {
  throw Error(kind, fmt::vformat(format, arguments));
}

}  // namespace edgewise
