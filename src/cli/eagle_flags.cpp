#include "cli/eagle_flags.h"

namespace edgewise {

std::optional<EagleOptions> EagleFlags::if_asked() const { return on ? std::optional(options) : std::nullopt; }

std::optional<EagleOptions> EagleFlags::if_there(const std::filesystem::path& engine, bool prompt_lookup) const {
  if (on) return options;
  return !off && !prompt_lookup && has_draft_head(engine) ? std::optional(options) : std::nullopt;
}

void add_eagle_flags(CLI::App& command, EagleFlags& flags, EagleDefault unless_told) {
  if (unless_told == EagleDefault::kOn) {
    command.add_flag(both_spellings("eagle"), flags.on, "guess ahead with the engine's draft head, or fail");
    command.add_flag("--no_eagle", flags.off, "don't, even if the engine holds a draft head");
  } else {
    command.add_flag(both_spellings("eagle"), flags.on, "guess ahead with the engine's draft head (EAGLE-3)");
  }
  EagleOptions& o = flags.options;
  add_flag(command, "draftingTopK", o.top_k, "branches of each guess; 1: a chain");
  add_flag(command, "draftingStep", o.steps, "longest chain of guesses");
  add_flag(command, "draftMinP", o.least_chance, "probability that a guess must have in the head's eyes");
  add_flag(command, "verifyTreeSize", o.verify_tokens, "tokens of the tree that a step checks");
}

}  // namespace edgewise
