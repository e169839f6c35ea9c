// What a fuzz target writes for the reader of files that it tests.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace edgewise {

// A path of this target and process alone.
inline std::filesystem::path fuzz_path(const std::string& target) {
  return std::filesystem::temp_directory_path() / ("edgewise-" + target + "-" + std::to_string(::getpid()));
}

// Waiting for the disk would take most of the time: it happens in OutputFile, and where a file is truncated.
inline void write_fuzz_file(const std::filesystem::path& path, std::string_view bytes) {
  std::filesystem::remove(path);
  std::ofstream(path, std::ios::binary) << bytes;
}

}  // namespace edgewise
