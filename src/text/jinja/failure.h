// What goes wrong while a template renders, before it knows its line: thrown inside the engine, turned into
// edgewise::Error at its edge. `type` is the exception jinja2 would raise in the same place.
#pragma once

#include <fmt/format.h>

#include <exception>
#include <string>
#include <utility>

namespace edgewise::jinja {

class Failure : public std::exception {
 public:
  Failure(std::string type, std::string message) : type_(std::move(type)), message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }
  const std::string& type() const { return type_; }
  const std::string& message() const { return message_; }

 private:
  std::string type_;
  std::string message_;
};

// raise_exception() of the template.
class RaisedFailure : public Failure {
 public:
  explicit RaisedFailure(std::string message) : Failure("TemplateError", std::move(message)) {}
};

[[noreturn]] void throw_failure(const char* type, fmt::string_view format, fmt::format_args arguments);

template <typename... Args>
[[noreturn]] void type_error(fmt::format_string<Args...> format, Args&&... args) {
  throw_failure("TypeError", format, fmt::make_format_args(args...));
}
template <typename... Args>
[[noreturn]] void value_error(fmt::format_string<Args...> format, Args&&... args) {
  throw_failure("ValueError", format, fmt::make_format_args(args...));
}
template <typename... Args>
[[noreturn]] void overflow_error(fmt::format_string<Args...> format, Args&&... args) {
  throw_failure("OverflowError", format, fmt::make_format_args(args...));
}
template <typename... Args>
[[noreturn]] void runtime_error(fmt::format_string<Args...> format, Args&&... args) {
  throw_failure("TemplateRuntimeError", format, fmt::make_format_args(args...));
}
template <typename... Args>
[[noreturn]] void argument_error(fmt::format_string<Args...> format, Args&&... args) {
  throw_failure("FilterArgumentError", format, fmt::make_format_args(args...));
}
// A bound of ours, which keeps a hostile template from taking the process with it.
template <typename... Args>
[[noreturn]] void limit_error(fmt::format_string<Args...> format, Args&&... args) {
  throw_failure("LimitError", format, fmt::make_format_args(args...));
}

}  // namespace edgewise::jinja
