#pragma once

#include <filesystem>

#include "cli/command.h"
#include "runtime/session.h"

namespace edgewise {

// What a command does with an engine's draft head when no flag says so.
enum class HeadDefault { kOff, kOn };

// How to guess ahead, as flags: a draft head, another engine, or the text itself.
struct DraftFlags {
  int prompt_lookup = 0;
  bool eagle = false;
  bool no_eagle = false;
  std::filesystem::path draft_engine;
  DraftingOptions options;
  HeadDefault head = HeadDefault::kOff;

  // Throws Error(kUsage) when the flags ask for more than one of them.
  void apply(const std::filesystem::path& engine, SessionOptions& session) const;
};

inline constexpr const char* kGaveUpWarning =
    "warning: guessing ahead did not pay and was switched off for the rest of an answer\n";

void add_draft_flags(CLI::App& command, DraftFlags& flags, HeadDefault head);

}  // namespace edgewise
