// Backends whose device fails when a test, or SIGUSR1, says so.
#pragma once

#include <atomic>

namespace edgewise {

// The CPU's is called "frail-cpu", and only says that it failed, with these words. The GPU's, "frail-cuda", does fail.
inline constexpr const char* kBurntDown = "the device burnt down";

// From the next step on, of executables that are loaded by then and of others.
extern std::atomic<bool> device_burns;

}  // namespace edgewise
