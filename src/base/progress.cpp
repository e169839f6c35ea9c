#include "base/progress.h"

#include <unistd.h>
#include <csignal>

#include <algorithm>
#include <cstdio>

#include "base/error.h"

namespace edgewise {
namespace {

volatile std::sig_atomic_t g_interrupts = 0;
volatile std::sig_atomic_t g_terminated = 0;

void on_interrupt(int number) {
  if (number == SIGTERM) g_terminated = 1;
  g_interrupts = g_interrupts + 1;
  if (g_interrupts > 1) ::_exit(130);  // the second Ctrl-C does not wait for a clean end
}

}  // namespace

Progress::Progress(std::string title, int64_t total, std::string unit)
    : title_(std::move(title)),
      unit_(std::move(unit)),
      total_(std::max<int64_t>(total, 1)),
      visible_(::isatty(STDERR_FILENO) != 0),
      start_(std::chrono::steady_clock::now()) {}

Progress::~Progress() {
  if (visible_) std::fputs("\r\033[K", stderr);
}

void Progress::advance(int64_t by, const std::string& detail) {
  check_interrupted();
  done_ = std::min(done_ + by, total_);
  if (!visible_) return;
  const auto now = std::chrono::steady_clock::now();
  if (done_ < total_ && now - drawn_ < std::chrono::milliseconds(80)) return;
  drawn_ = now;
  constexpr int kWidth = 28;
  const double fraction = static_cast<double>(done_) / static_cast<double>(total_);
  const int filled = static_cast<int>(fraction * kWidth);
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const double left = fraction > 0 ? elapsed / fraction - elapsed : 0;
  const bool bytes = unit_ == "bytes";
  const std::string counts = bytes ? fmt::format("{:.1f}/{:.1f} MB", done_ / 1e6, total_ / 1e6)
                                   : fmt::format("{}/{} {}", done_, total_, unit_);
  fmt::print(stderr, "\r\033[K{} [{:#<{}}{:.<{}}] {}  {:.0f}s left  {}", title_, "", filled, "", kWidth - filled,
             counts, left, detail);
  std::fflush(stderr);
}

void install_interrupt_handler() {
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  // What is being written goes on: a stream that a signal breaks off says nothing any more.
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  // Beyond a file-size limit a write fails like one on a full disk, with a message and what was begun removed.
  ::signal(SIGXFSZ, SIG_IGN);
}

bool interrupted() { return g_interrupts > 0; }
void clear_interrupt() { g_interrupts = g_terminated; }

void check_interrupted() {
  if (interrupted()) throw Error(ErrorKind::kInterrupted, "interrupted");
}

}  // namespace edgewise
