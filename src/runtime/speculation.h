// How far guessing ahead pays, from measured times and from how often guesses were right.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

#include "formats/json.h"

namespace edgewise {

struct SpeculationStats {
  int64_t verifications = 0;  // of one sequence each: a step that tried guesses
  int64_t drafted = 0;        // tokens tried
  int64_t accepted = 0;       // and found right
  double draft_seconds = 0;
  double verify_seconds = 0;  // of steps that tried some

  // Tokens a verification gave, the model's own one included.
  double acceptance_length() const {
    return verifications == 0 ? 0 : 1 + static_cast<double>(accepted) / static_cast<double>(verifications);
  }
};

// What came between two looks.
SpeculationStats operator-(const SpeculationStats& a, const SpeculationStats& b);
OrderedJson to_json(const SpeculationStats& stats);

// What a step with guesses takes in terms of one without, by the number of sequences that decode. The two are timed
// close after one another, so that what else the machine does falls out.
class SpeculationCost {
 public:
  // Whether the next step had better do without guesses, to compare; sooner where somebody thinks of giving up.
  bool wants_plain(int sequences, bool doubts) const {
    const Entry& entry = entries_[index(sequences)];
    return entry.steps >= (entry.ratio == 0 || doubts ? kFewSteps : kSteps);
  }
  // Of a step that nothing but decoding shared; `seconds` with the making of the guesses.
  void note(int sequences, bool guessed, double seconds) {
    Entry& entry = entries_[index(sequences)];
    if (guessed) {
      entry.seconds = entry.steps == 0 ? seconds : 0.8 * entry.seconds + 0.2 * seconds;
      ++entry.steps;
    } else if (entry.steps > 0) {
      const double ratio = entry.seconds / seconds;
      entry.ratio = entry.ratio == 0 ? ratio : 0.5 * (entry.ratio + ratio);
      entry.steps = 0;
    }
  }
  // 0: not known yet.
  double ratio(int sequences) const { return entries_[index(sequences)].ratio; }

 private:
  static constexpr int kFewSteps = 3;  // between two comparisons
  static constexpr int kSteps = 32;
  struct Entry {
    double seconds = 0;  // of steps with guesses since the last comparison, on average
    int steps = 0;
    double ratio = 0;
  };
  static size_t index(int sequences) { return static_cast<size_t>(std::bit_width(static_cast<unsigned>(sequences))); }
  std::array<Entry, 33> entries_;  // by powers of two
};

// Tokens that steps with guesses gave one sequence, the model's own one included.
class Acceptance {
 public:
  void note(int accepted) {
    tokens_ = kKeep * tokens_ + accepted + 1;
    steps_ = kKeep * steps_ + 1;
  }
  // A step's, on average of late.
  double tokens() const { return (kPrior * kPriorSteps + tokens_) / (kPriorSteps + steps_); }

 private:
  static constexpr double kKeep = 0.9;
  static constexpr double kPrior = 3;  // before anything was tried
  static constexpr double kPriorSteps = 3;
  double tokens_ = 0;
  double steps_ = 0;
};

}  // namespace edgewise
