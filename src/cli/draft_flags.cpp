#include "cli/draft_flags.h"

#include "base/error.h"

namespace edgewise {

void DraftFlags::apply(const std::filesystem::path& engine, SessionOptions& session) const {
  const bool other_engine = !draft_engine.empty();
  const bool look_up = prompt_lookup != 0;
  if (int{eagle} + int{other_engine} + int{look_up} > 1)
    usage_error("--eagle, --draft_engine and --prompt_lookup: choose one of them");
  const bool unasked = head == HeadDefault::kOn && !no_eagle && !look_up && has_draft_head(engine);
  session.draft_tokens = prompt_lookup;
  session.draft_engine = draft_engine;
  if (eagle || other_engine || unasked) session.drafting = options;
}

void add_draft_flags(CLI::App& command, DraftFlags& flags, HeadDefault head) {
  flags.head = head;
  add_flag(command, "prompt_lookup", flags.prompt_lookup,
           "tokens tried at once where the text repeats itself (speculative decoding without a draft model; 0: none)");
  if (head == HeadDefault::kOn) {
    command.add_flag(both_spellings("eagle"), flags.eagle, "guess ahead with the engine's draft head, or fail");
    command.add_flag("--no_eagle", flags.no_eagle, "don't, even if the engine holds a draft head");
  } else {
    command.add_flag(both_spellings("eagle"), flags.eagle, "guess ahead with the engine's draft head (EAGLE-3)");
  }
  command.add_option(both_spellings("draft_engine"), flags.draft_engine,
                     "guess ahead with this engine, a smaller one with the same tokenizer");
  DraftingOptions& o = flags.options;
  add_flag(command, "draftingTopK", o.top_k, "branches of each guess; 1: a chain");
  add_flag(command, "draftingStep", o.steps, "longest chain of guesses");
  add_flag(command, "draftMinP", o.least_chance, "probability that a guess must have in the draft's eyes");
  add_flag(command, "verifyTreeSize", o.verify_tokens, "tokens of the tree that a step checks");
}

}  // namespace edgewise
