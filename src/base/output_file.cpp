#include "base/output_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <system_error>

#include "base/error.h"

namespace edgewise {
namespace fs = std::filesystem;
namespace {

fs::path temporary_name(const fs::path& path) {
  fs::path temporary = path;
  temporary += fmt::format(".tmp-{}", ::getpid());
  return temporary;
}

}  // namespace

OutputFile::OutputFile(fs::path path) : path_(std::move(path)), temporary_(temporary_name(path_)) {
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) fail(ErrorKind::kIo, "{}: can't create: {}", path_.string(), std::strerror(errno));
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) {
    ::close(fd_);
    ::unlink(temporary_.c_str());
  }
}

void OutputFile::fail_write() const {
  fail(ErrorKind::kIo, "{}: write failed at byte {}: {}", path_.string(), position_, std::strerror(errno));
}

void OutputFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      fail_write();
    }
    position_ += static_cast<uint64_t>(written);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void OutputFile::write(std::string_view text) { write(std::as_bytes(std::span(text))); }

void OutputFile::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0) {
      if (errno == EINTR) continue;
      fail_write();
    }
    offset += static_cast<uint64_t>(written);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void OutputFile::pad_to(size_t alignment) {
  static constexpr std::array<std::byte, 4096> kZeros{};
  while (position_ % alignment != 0) {
    const size_t gap = alignment - static_cast<size_t>(position_ % alignment);
    write(std::span(kZeros).first(std::min(gap, kZeros.size())));
  }
}

void OutputFile::commit() {
  if (::fsync(fd_) != 0) fail_write();
  if (::close(std::exchange(fd_, -1)) != 0) {
    ::unlink(temporary_.c_str());
    fail_write();
  }
  std::error_code error;
  fs::rename(temporary_, path_, error);
  if (error) {
    ::unlink(temporary_.c_str());
    fail(ErrorKind::kIo, "{}: can't rename into place: {}", path_.string(), error.message());
  }
}

OutputDirectory::OutputDirectory(fs::path path, std::string_view marker) {
  final_ = fs::absolute(std::move(path)).lexically_normal();
  if (!final_.has_filename()) final_ = final_.parent_path();  // a trailing slash
  if (fs::exists(final_)) {
    if (!fs::is_directory(final_)) usage_error("{}: exists and is not a directory", final_.string());
    if (!fs::is_empty(final_) && !fs::exists(final_ / marker)) {
      usage_error("{}: holds files but no {}; choose an empty or new directory", final_.string(), marker);
    }
  }
  temporary_ = temporary_name(final_);
  std::error_code error;
  fs::remove_all(temporary_, error);
  fs::create_directories(temporary_, error);
  if (error) fail(ErrorKind::kIo, "{}: can't create: {}", final_.string(), error.message());
}

OutputDirectory::~OutputDirectory() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(temporary_, ignored);
}

// A reader sees the old directory or the new one, never a mixture and never none, whoever else commits at the same
// time: where one stands the two change places, else ours must be the first.
void OutputDirectory::commit() {
  const auto rename_as = [this](unsigned flags) {
    return ::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, final_.c_str(), flags) == 0 ? 0 : errno;
  };
  int error = EEXIST;
  while (error == EEXIST) {
    error = rename_as(RENAME_EXCHANGE);
    if (error == ENOENT) error = rename_as(RENAME_NOREPLACE);
  }
  if (error == EINVAL || error == ENOSYS) error = replace_in_two_steps();  // a file system without these
  if (error != 0) {
    fail(ErrorKind::kIo, "{}: can't rename into place: {}", final_.string(), std::generic_category().message(error));
  }
  committed_ = true;
  std::error_code ignored;
  fs::remove_all(temporary_, ignored);  // what stood there before
}

int OutputDirectory::replace_in_two_steps() {
  std::error_code error;
  fs::path old = temporary_;
  old += ".old";
  if (fs::exists(final_)) fs::rename(final_, old, error);
  if (!error) fs::rename(temporary_, final_, error);
  std::error_code ignored;
  fs::remove_all(old, ignored);
  return error.value();
}

void write_text_file(const fs::path& path, std::string_view text) {
  OutputFile file(path);
  file.write(text);
  file.commit();
}

}  // namespace edgewise
