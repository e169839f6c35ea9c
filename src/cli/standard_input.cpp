#include "cli/standard_input.h"

#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/progress.h"

namespace edgewise {

bool input_waits() {
  constexpr int kMilliseconds = 200;
  pollfd input{STDIN_FILENO, POLLIN, 0};
  return ::poll(&input, 1, kMilliseconds) > 0;
}

std::string read_standard_input() {
  std::string text;
  std::array<char, 1 << 16> part;
  while (true) {
    const bool waits = input_waits();
    check_interrupted();
    if (!waits) continue;
    const ssize_t count = ::read(STDIN_FILENO, part.data(), part.size());
    if (count == 0) return text;
    if (count < 0) fail(ErrorKind::kIo, "standard input: {}", std::strerror(errno));
    text.append(part.data(), static_cast<size_t>(count));
  }
}

}  // namespace edgewise
