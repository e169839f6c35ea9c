// What Linux says of memory.
#pragma once

#include <fstream>
#include <string>
#include <string_view>

namespace edgewise {

// A field of /proc/FILE in bytes ("MemAvailable:  123 kB"); 0 where there is none.
inline size_t proc_bytes(const char* file, std::string_view field) {
  std::ifstream stream(std::string("/proc/") + file);
  for (std::string line; std::getline(stream, line);) {
    if (line.starts_with(field)) return std::stoull(line.substr(line.find(':') + 1)) * 1024;
  }
  return 0;
}

}  // namespace edgewise
