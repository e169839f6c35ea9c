// What the scheduler does with tokens guessed ahead: into the step, what was right kept, and the next ones asked for.
#include <algorithm>

#include "base/seconds.h"
#include "runtime/scheduler.h"

namespace edgewise {

// Its draft behind the row of its last token.
void Scheduler::add_draft(Sequence& sequence) noexcept {
  if (sequence.draft.empty()) return;
  SequenceSlice& slice = slices_.back();
  slice.token_count += sequence.draft.size();
  if (!sequence.draft.is_chain()) {
    const size_t begin = tree_masks_.size();
    tree_masks_.push_back(1);  // bit 0 is the last token, bit i + 1 guess i
    for (size_t i = 0; i < sequence.draft.tokens.size(); ++i)
      tree_masks_.push_back(tree_masks_[begin + static_cast<size_t>(sequence.draft.parents[i] + 1)] | uint64_t{2} << i);
    slice.tree_begin = sequence.kv_length;
    slice.tree = std::span(tree_masks_).subspan(begin);
  }
  for (int i = 0; i < sequence.draft.size(); ++i) {
    const int32_t position = slice.position(i + 1);
    add_logits(sequence, static_cast<int32_t>(tokens_.size()), position - slice.kv_length);
    tokens_.push_back(sequence.draft.tokens[static_cast<size_t>(i)]);
    positions_.push_back(position);
  }
}

// Drops the guesses that the constraint forbids, and all behind them: the model would never say them.
void Scheduler::prune_draft(Sequence& sequence) noexcept {
  const ConstraintState& state = sequence.constraint->state;
  DraftTree& draft = sequence.draft;
  places_.clear();
  renumbered_.clear();
  for (size_t i = 0; i < draft.tokens.size(); ++i) {
    const int32_t old_parent = draft.parents[i];
    const int32_t parent = old_parent < 0 ? -1 : renumbered_[static_cast<size_t>(old_parent)];
    const bool lost = old_parent >= 0 && parent < 0;
    const auto before = parent < 0 ? state.place() : places_[static_cast<size_t>(parent)];
    const auto place = lost ? std::nullopt : state.behind(before, draft.tokens[i]);
    renumbered_.push_back(place ? static_cast<int32_t>(places_.size()) : -1);
    if (!place) continue;
    draft.tokens[places_.size()] = draft.tokens[i];
    draft.parents[places_.size()] = parent;
    places_.push_back(*place);
  }
  draft.tokens.resize(places_.size());
  draft.parents.resize(places_.size());
}

// Accepted guesses become tokens of the sequence: their keys and values go where a chain has them.
void Scheduler::keep_path(Sequence& sequence, int first_slot) noexcept {
  copies_.clear();
  const auto page_of = [&](int slot) { return sequence.pages[static_cast<size_t>(slot / kPageTokens)]; };
  for (int i = 0; i < static_cast<int>(path_.size()); ++i) {
    const int from = first_slot + path_[static_cast<size_t>(i)];
    const int to = first_slot + i;
    if (from != to) copies_.push_back({page_of(from), from % kPageTokens, page_of(to), to % kPageTokens});
  }
  if (!copies_.empty()) executable_.copy_slots(copies_);
  const auto right = static_cast<int>(path_.size());
  sequence.kv_length += right;
  sequence.acceptance.note(right);
  ++sequence.verifications;
  sequence.drafted += sequence.draft.size();
  sequence.accepted += right;
  ++speculation_.verifications;
  speculation_.drafted += sequence.draft.size();
  speculation_.accepted += right;
  sequence.draft.clear();
}

// Guesses for the next step. The drafter sees every prompt and every sequence that still speculates, so that what it
// keeps in its cache is as long as what the model keeps.
void Scheduler::draft() noexcept {
  if (drafter_ == nullptr) return;
  requests_.clear();
  deciding_ = 0;
  bool doubts = false;
  for (const Sequence* sequence : running_) deciding_ += sequence->decoding() ? 1 : 0;
  for (const Sequence* sequence : running_)
    doubts |= sequence->decoding() && sequence->speculates() && sequence->doubts(cost_.ratio(deciding_));
  plain_ = limits_.weigh_drafts && deciding_ == running() && cost_.wants_plain(deciding_, doubts);
  for (size_t i = 0; i < slices_.size(); ++i) {
    Sequence& sequence = *sliced_[i];
    const bool decoded = static_cast<int>(i) < decoding_sequences_;
    if (sequence.finished() || (decoded && !sequence.speculates())) continue;
    const auto begin = static_cast<size_t>(kept_begin_[i]);
    const size_t end = i + 1 < slices_.size() ? static_cast<size_t>(kept_begin_[i + 1]) : kept_.size();
    requests_.push_back(
        {&sequence, std::span(kept_).subspan(begin, end - begin), slices_[i].kv_length, draft_depth(sequence)});
  }
  if (requests_.empty()) return;
  const auto start = std::chrono::steady_clock::now();
  drafter_->draft(requests_, cache_);
  for (const DraftRequest& request : requests_) {
    if (request.sequence->constraint) prune_draft(*request.sequence);
  }
  draft_seconds_ = seconds_since(start);
  speculation_.draft_seconds += draft_seconds_;
}

// The longest chain worth guessing for a sequence; 0 when guessing does not pay.
int Scheduler::draft_depth(Sequence& sequence) noexcept {
  if (!sequence.decoding() || !sequence.speculates()) return 0;
  const int most = std::min(drafter_->max_depth(), sequence.max_tokens - sequence.generated() - 1);
  if (most < 1 || !cache_.reserve(sequence.pages, sequence.kv_length + 1 + drafter_->slots())) return 0;
  if (plain_) return 0;
  if (!limits_.weigh_drafts || sequence.verifications < kTrial || !sequence.doubts(cost_.ratio(deciding_))) return most;
  sequence.gave_up = true;  // for good, as the drafter loses track of it
  return 0;
}

}  // namespace edgewise
