// This process as the system sees it.
#pragma once

namespace edgewise {

// Replaces the program by itself: the process stays, with its arguments, environment, working directory and standard
// streams; all else it holds open is closed, and no destructor runs. Throws Error(kIo) where the system refuses.
[[noreturn]] void restart_process();

}  // namespace edgewise
