#pragma once

#include <filesystem>
#include <optional>

#include "cli/command.h"
#include "runtime/session.h"

namespace edgewise {

// Guessing ahead with a draft head, as flags.
struct EagleFlags {
  bool on = false;
  bool off = false;
  EagleOptions options;

  // For commands that use a head when they are told to.
  std::optional<EagleOptions> if_asked() const;
  // For those that use one when the engine holds one.
  std::optional<EagleOptions> if_there(const std::filesystem::path& engine, bool prompt_lookup) const;
};

inline constexpr const char* kGaveUpWarning =
    "warning: guessing ahead did not pay and was switched off for the rest of an answer\n";

enum class EagleDefault { kOff, kOn };
void add_eagle_flags(CLI::App& command, EagleFlags& flags, EagleDefault unless_told);

}  // namespace edgewise
