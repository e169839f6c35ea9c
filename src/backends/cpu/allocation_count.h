// Counts what a test program allocates, by replacing operator new.
#pragma once

#include <cstdint>

namespace edgewise {

// Calls of operator new so far; always 0 under sanitizers, which have their own.
int64_t allocation_count();

}  // namespace edgewise
