// A progress bar on standard error for long work; silent when that is not a terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace edgewise {

class Progress {
 public:
  // `unit` stands behind the counts ("layers"); "bytes" prints them as MB.
  Progress(std::string title, int64_t total, std::string unit = "");
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void advance(int64_t by = 1, const std::string& detail = "");

 private:
  std::string title_;
  std::string unit_;
  int64_t total_;
  int64_t done_ = 0;
  bool visible_;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point drawn_;
};

// Ctrl-C sets a flag that long work polls: check_interrupted() throws Error(kInterrupted) once it is set,
// so that destructors remove half-written output.
void install_interrupt_handler();
bool interrupted();
// Ctrl-C has been served. Not so SIGTERM: it ends the program.
void clear_interrupt();
void check_interrupted();

}  // namespace edgewise
