// The one error type of Edgewise. Thrown outside the hot loop only; a decode step never throws.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace edgewise {

enum class ErrorKind {
  kUsage,        // the caller asked for something impossible: a flag, a value, a missing argument
  kBadFile,      // a file's content is not what its format promises
  kUnsupported,  // well formed, but outside what Edgewise implements; the message names the field
  kIo,           // the operating system refused: missing file, permissions, full disk
  kInterrupted,  // Ctrl-C
  kBusy,         // too many requests wait already
  kInternal,     // a broken invariant of ours
};

// The message names the file, the thing in it, what was expected, what was found, and what to do.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

[[noreturn]] void fail_formatted(ErrorKind kind, fmt::string_view format, fmt::format_args arguments);

template <typename... Args>
[[noreturn]] void fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  fail_formatted(kind, format, fmt::make_format_args(args...));
}

// A file whose content breaks its format's rules.
template <typename... Args>
[[noreturn]] void bad_file(fmt::format_string<Args...> format, Args&&... args) {
  fail_formatted(ErrorKind::kBadFile, format, fmt::make_format_args(args...));
}

template <typename... Args>
[[noreturn]] void unsupported(fmt::format_string<Args...> format, Args&&... args) {
  fail_formatted(ErrorKind::kUnsupported, format, fmt::make_format_args(args...));
}

template <typename... Args>
[[noreturn]] void usage_error(fmt::format_string<Args...> format, Args&&... args) {
  fail_formatted(ErrorKind::kUsage, format, fmt::make_format_args(args...));
}

// An invariant of ours, checked in every build; never used for what a file or a user may get wrong.
inline void check_internal(bool condition, const char* what) {
  if (!condition) throw Error(ErrorKind::kInternal, std::string("internal error: ") + what);
}

}  // namespace edgewise
