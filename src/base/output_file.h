// Files and directories that appear whole or not at all: written under a temporary name, then renamed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

namespace edgewise {

// Removed by its destructor unless commit() ran. Every write is checked; a full disk throws Error(kIo).
class OutputFile {
 public:
  explicit OutputFile(std::filesystem::path path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  // Overwrites bytes already written, as for a header that is known last.
  void write_at(uint64_t offset, std::span<const std::byte> bytes);
  // Zero bytes up to the next multiple of `alignment`.
  void pad_to(size_t alignment);
  uint64_t position() const { return position_; }
  // Flushes to disk and gives the file its name.
  void commit();

 private:
  [[noreturn]] void fail_write() const;

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int fd_ = -1;
  uint64_t position_ = 0;
};

// A directory filled under a temporary name beside its final one. commit() replaces what stands there,
// provided that is absent, empty, or was written by Edgewise (it holds `marker`); else throws Error(kUsage).
class OutputDirectory {
 public:
  OutputDirectory(std::filesystem::path path, std::string_view marker);
  ~OutputDirectory();
  OutputDirectory(const OutputDirectory&) = delete;
  OutputDirectory& operator=(const OutputDirectory&) = delete;

  const std::filesystem::path& path() const { return temporary_; }
  void commit();

 private:
  int replace_in_two_steps();

  std::filesystem::path final_;
  std::filesystem::path temporary_;
  bool committed_ = false;
};

void write_text_file(const std::filesystem::path& path, std::string_view text);

}  // namespace edgewise
