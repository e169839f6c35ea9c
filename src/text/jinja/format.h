// Python's two ways to format: "%s" % values and "{}".format(values).
#pragma once

#include <string>

#include "text/jinja/value.h"

namespace edgewise::jinja {

Value format_percent(const Value& format, const Value& values);
Value format_braces(const Value& format, const Args& args);
// format(value, spec) of Python, for plain data.
std::string format_with_spec(const Value& value, const std::string& spec);

}  // namespace edgewise::jinja
