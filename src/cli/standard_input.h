#pragma once

#include <string>

namespace edgewise {

// Standard input up to its end. Throws Error(kInterrupted) at Ctrl-C, and kIo when it can't be read.
std::string read_standard_input();

}  // namespace edgewise
