#include "runtime/scheduler.h"

#include <algorithm>
#include <cassert>

#include "base/error.h"
#include "base/seconds.h"

namespace edgewise {
namespace {

constexpr int kTrial = 4;  // steps with guesses before a sequence may give up

bool goes_first(const Sequence* a, const Sequence* b) {
  return a->priority != b->priority ? a->priority > b->priority : a->arrival < b->arrival;
}

void insert_in_order(std::vector<Sequence*>& list, Sequence& sequence) {
  list.insert(std::upper_bound(list.begin(), list.end(), &sequence, goes_first), &sequence);
}

}  // namespace

Scheduler::Scheduler(Executable& executable, const SchedulerLimits& limits, std::vector<int32_t> end_tokens,
                     Drafter* drafter)
    : executable_(executable),
      limits_(limits),
      end_tokens_(std::move(end_tokens)),
      drafter_(drafter),
      cache_(limits.kv_pages, limits.share_prefixes),
      budget_(limits.max_step_tokens),
      mask_worker_(limits.max_sequences) {
  check_internal(limits.kv_pages * kPageTokens >= limits.kv_capacity, "the cache must hold a sequence");
  const auto sequences = static_cast<size_t>(limits.max_sequences);
  const size_t rows = sequences * static_cast<size_t>(most_drafted() + 1);
  const auto step_tokens = static_cast<size_t>(limits.max_step_tokens);
  check_internal(rows <= step_tokens, "a step must hold all drafts");
  running_.reserve(sequences);
  tokens_.reserve(step_tokens);
  positions_.reserve(step_tokens);
  slices_.reserve(sequences);
  sliced_.reserve(sequences);
  rows_.reserve(rows);
  chosen_.reserve(rows);
  draws_.reserve(rows);
  first_rows_.reserve(sequences);
  tree_masks_.reserve(rows);
  path_.reserve(kMostTreeTokens);
  copies_.reserve(kMostTreeTokens);
  kept_.reserve(step_tokens);
  kept_begin_.reserve(sequences);
  requests_.reserve(sequences);
  places_.reserve(kMostTreeTokens);
  renumbered_.reserve(kMostTreeTokens);
  logits_.resize(rows * static_cast<size_t>(limits.vocabulary));
  hidden_.resize(rows * static_cast<size_t>(limits.hidden));
}

bool Scheduler::submit(Sequence& sequence) {
  check_internal(!sequence.tokens.empty(), "a sequence needs a prompt");
  check_internal(sequence.prompt_length + sequence.max_tokens <= limits_.kv_capacity, "a sequence must fit the cache");
  if (waiting() >= limits_.max_waiting) return false;
  if (sequence.constraint) mask_worker_.launch();
  if (sequence.embed) sequence.embedding.resize(static_cast<size_t>(limits_.hidden));
  sequence.arrival = ++arrivals_;
  sequence.draft.reserve(static_cast<size_t>(most_drafted()));
  waiting_.reserve(waiting_.size() + static_cast<size_t>(limits_.max_sequences) +
                   1);  // who runs may have to wait again
  insert_in_order(waiting_, sequence);
  return true;
}

void Scheduler::cancel(Sequence& sequence, FinishReason reason) {
  if (sequence.finished()) return;
  sequence.finish = reason;
  std::erase(waiting_, &sequence);
  retire();
}

StepOutcome Scheduler::step() noexcept {
  admit();
  make_room();
  plan();
  if (tokens_.empty()) return StepOutcome::kDone;
  const StepOutcome outcome = run();
  if (outcome == StepOutcome::kDone) {
    commit();
  } else {
    // Nothing of a failed step is kept; its sequences end with an error and give back their pages.
    for (Sequence* sequence : sliced_) sequence->finish = FinishReason::kError;
  }
  retire();
  draft();
  assert(check_invariants(snapshot()).empty());
  return outcome;
}

StepOutcome Scheduler::run() noexcept {
  const auto start = std::chrono::steady_clock::now();
  const bool embeds = std::ranges::any_of(sliced_, [](const Sequence* sequence) { return sequence->embed; });
  const std::span<float> outputs[] = {logits_, embeds ? std::span(hidden_) : std::span<float>(),
                                      drafter_ == nullptr ? std::span<float>() : drafter_->features()};
  mask_worker_.start(sliced_);
  const StepOutcome outcome =
      executable_.run({tokens_, positions_, {}, slices_, rows_, draws_, &mask_worker_}, outputs, chosen_);
  mask_worker_.wait();
  const double seconds = seconds_since(start);
  const int prefilled = static_cast<int>(tokens_.size()) - decoding_;
  budget_.note_step(decoding_, prefilled, seconds);
  const bool guessed = decoding_ > decoding_sequences_;
  if (guessed) speculation_.verify_seconds += seconds;
  if (prefilled == 0) cost_.note(decoding_sequences_, guessed, seconds + (guessed ? draft_seconds_ : 0));
  return outcome;
}

// Slots and pages for those who wait, in order: nobody overtakes one who lacks pages.
void Scheduler::admit() noexcept {
  while (!waiting_.empty()) {
    Sequence& sequence = *waiting_.front();
    while (running() == limits_.max_sequences || !find_room(sequence)) {
      if (running_.empty() || running_.back()->priority >= sequence.priority) return;
      preempt_last();
    }
    if (sequence.generated() == 0 && sequence.preemptions == 0) {
      sequence.admitted = std::chrono::steady_clock::now();
      sequence.cached_tokens = sequence.kv_length;
    }
    std::erase(waiting_, &sequence);
    insert_in_order(running_, sequence);
  }
}

// Pages for what the sequence holds: those the cache knows, and new ones. In the paged policy a page for each of the
// others stays free, so that they are not driven out at once.
bool Scheduler::find_room(Sequence& sequence) noexcept {
  const int known = cache_.reuse(sequence.tokens, sequence.adapter, sequence.pages);
  const int longest = sequence.prompt_length + sequence.max_tokens;
  const int length = limits_.reserve_whole ? longest : std::min(sequence.length() + 1, longest);
  const int spare = limits_.reserve_whole ? 0 : running();
  const int missing = (length + kPageTokens - 1) / kPageTokens - static_cast<int>(sequence.pages.size());
  if (missing + spare > cache_.available() || !cache_.reserve(sequence.pages, length)) {
    cache_.release(sequence.pages);
    return false;
  }
  sequence.kv_length = known;
  sequence.published = known / kPageTokens;
  return true;
}

// A page for the next token of each, the oldest first; the last one leaves when there is none.
void Scheduler::make_room() noexcept {
  for (size_t i = 0; i < running_.size(); ++i) {
    while (i < running_.size() && !cache_.reserve(running_[i]->pages, running_[i]->kv_length + 1)) preempt_last();
  }
}

void Scheduler::preempt_last() noexcept {
  Sequence& sequence = *running_.back();
  running_.pop_back();
  cache_.release(sequence.pages);
  sequence.kv_length = 0;
  sequence.published = 0;
  sequence.draft.clear();
  ++sequence.preemptions;
  insert_in_order(waiting_, sequence);
}

void Scheduler::plan() noexcept {
  tokens_.clear();
  positions_.clear();
  slices_.clear();
  sliced_.clear();
  rows_.clear();
  chosen_.clear();
  draws_.clear();
  first_rows_.clear();
  tree_masks_.clear();
  // Decoding sequences first, so a long prompt delays nobody by more than its chunk.
  for (Sequence* sequence : running_) {
    if (!sequence->decoding()) continue;
    add_rows(*sequence, 1);
    add_draft(*sequence);
  }
  decoding_ = static_cast<int>(tokens_.size());
  decoding_sequences_ = static_cast<int>(slices_.size());
  int left = limits_.max_step_tokens - decoding_;
  if (limits_.protect_decoding) left = std::min(left, budget_.tokens(decoding_));
  for (Sequence* sequence : running_) {
    if (sequence->decoding() || left == 0) continue;
    const int count = std::min(left, sequence->length() - sequence->kv_length);
    add_rows(*sequence, count);
    left -= count;
  }
}

// The next `count` known tokens, with logits where they reach the last one.
void Scheduler::add_rows(Sequence& sequence, int count) noexcept {
  const auto first = static_cast<int32_t>(tokens_.size());
  for (int i = sequence.kv_length; i < sequence.kv_length + count; ++i) {
    tokens_.push_back(sequence.tokens[static_cast<size_t>(i)]);
    positions_.push_back(i);
  }
  slices_.push_back({first, count, sequence.kv_length, sequence.length(), sequence.pages, sequence.adapter});
  sliced_.push_back(&sequence);
  const bool last = sequence.kv_length + count == sequence.length();
  first_rows_.push_back(last ? static_cast<int32_t>(rows_.size()) : -1);
  if (last) add_logits(sequence, first + count - 1, 0);
}

// A row whose token the executable may choose leaves its logits where they are. `ahead`: how many guesses it is behind.
void Scheduler::add_logits(const Sequence& sequence, int32_t row, int ahead) noexcept {
  rows_.push_back(row);
  draws_.emplace_back();
  const std::span<const uint64_t> allowed =
      sequence.constraint ? std::span(sequence.constraint->mask) : std::span<const uint64_t>();
  const int32_t asked = sequence.sampler.ask(ahead, allowed, draws_.back());
  chosen_.push_back(sequence.embed ? kPickBest : asked);
}

void Scheduler::commit() noexcept {
  kept_.clear();
  kept_begin_.clear();
  for (size_t i = 0; i < slices_.size(); ++i) {
    Sequence& sequence = *sliced_[i];
    const SequenceSlice& slice = slices_[i];
    sequence.kv_length = std::min(slice.kv_length + slice.token_count, sequence.length());
    kept_begin_.push_back(static_cast<int32_t>(kept_.size()));
    for (int row = slice.kv_length; row < sequence.kv_length; ++row)
      kept_.push_back(slice.first_token + row - slice.kv_length);
    if (first_rows_[i] >= 0 && sequence.embed) {
      const auto columns = static_cast<size_t>(limits_.hidden);
      std::copy_n(hidden_.begin() + first_rows_[i] * limits_.hidden, columns, sequence.embedding.begin());
      sequence.finish = FinishReason::kStop;
    } else if (first_rows_[i] >= 0) {
      sample_rows(sequence, slice, static_cast<size_t>(first_rows_[i]));
    }
    publish(sequence);
  }
}

// One token from the model, and another one for as long as the draft had said the same. Each is drawn from the model's
// own distribution, so drafts change the speed and nothing else.
void Scheduler::sample_rows(Sequence& sequence, const SequenceSlice& slice, size_t first_row) noexcept {
  const auto vocabulary = static_cast<size_t>(limits_.vocabulary);
  path_.clear();
  int32_t node = -1;  // of the draft; -1 is the last token that was known
  while (true) {
    const size_t row = first_row + static_cast<size_t>(node + 1);
    std::span<const uint64_t> allowed;
    if (TokenConstraint* constraint = sequence.constraint.get()) {
      if (node >= 0) constraint->fill_mask();  // that of the known token was made while the step ran
      if (!constraint->usable) sequence.finish = FinishReason::kError;
      allowed = constraint->mask;
    }
    if (sequence.finished()) break;
    const auto logits = std::span(logits_).subspan(row * vocabulary, vocabulary);
    const int32_t token =
        chosen_[row] >= 0 ? sequence.sampler.take(chosen_[row]) : sequence.sampler.sample(logits, allowed);
    accept(sequence, token);
    const int32_t child = sequence.finished() ? -1 : sequence.draft.child(node, token);
    if (child < 0) break;
    node = child;
    path_.push_back(node);
    kept_.push_back(slice.first_token + 1 + node);
  }
  if (!sequence.draft.empty()) keep_path(sequence, slice.kv_length + 1);
}

void Scheduler::publish(Sequence& sequence) noexcept {
  const std::span<const int32_t> tokens = sequence.tokens;
  for (; (sequence.published + 1) * kPageTokens <= sequence.kv_length; ++sequence.published) {
    const auto page = static_cast<size_t>(sequence.published);
    cache_.publish(sequence.pages, page, tokens.subspan(page * kPageTokens).first<kPageTokens>(), sequence.adapter);
  }
  if (sequence.pin_tokens > 0 && sequence.kv_length >= sequence.prompt_length) {
    cache_.pin(std::span(sequence.pages).first(static_cast<size_t>(sequence.pin_tokens / kPageTokens)));
    sequence.pin_tokens = 0;
  }
}

void Scheduler::accept(Sequence& sequence, int32_t token) noexcept {
  sequence.last_token = std::chrono::steady_clock::now();
  if (sequence.generated() == 0) sequence.first_token = sequence.last_token;
  sequence.tokens.push_back(token);
  if (sequence.constraint) sequence.finish = sequence.constraint->accept(token);
  if (sequence.finished()) return;
  if (!sequence.ignore_end && std::find(end_tokens_.begin(), end_tokens_.end(), token) != end_tokens_.end()) {
    sequence.finish = FinishReason::kStop;
  } else if (sequence.generated() >= sequence.max_tokens) {
    sequence.finish = FinishReason::kLength;
  }
}

void Scheduler::retire() noexcept {
  std::erase_if(running_, [&](Sequence* sequence) {
    if (sequence->finished()) cache_.release(sequence->pages);
    return sequence->finished();
  });
}

SchedulerSnapshot Scheduler::snapshot() const {
  const auto entries = [](const std::vector<Sequence*>& list) {
    std::vector<SchedulerSnapshot::Entry> result;
    for (const Sequence* s : list) {
      result.push_back({s->length(), s->kv_length, s->published, s->priority, s->arrival, s->finished(), s->pages});
    }
    return result;
  };
  return {limits_, entries(waiting_), entries(running_), cache_.snapshot()};
}

}  // namespace edgewise
