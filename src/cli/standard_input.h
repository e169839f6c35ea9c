#pragma once

#include <string>

namespace edgewise {

// Whether standard input has something to read, or its end, after a moment: who asks again and again notices signals,
// which read() would sleep through.
bool input_waits();

// Standard input up to its end. Throws Error(kInterrupted) at Ctrl-C, and kIo when it can't be read.
std::string read_standard_input();

}  // namespace edgewise
