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

// The least time something took, forgotten slowly: what else the machine does makes single times longer.
class LeastSeconds {
 public:
  void note(double seconds) {
    least_ = count_ == 0 ? seconds : std::min(seconds, 1.02 * least_);
    count_ = std::min(count_ + 1, kEnough);
  }
  bool known() const { return count_ == kEnough; }
  double seconds() const { return known() ? least_ : 0; }

 private:
  static constexpr int kEnough = 2;
  double least_ = 0;
  int count_ = 0;
};

// Seconds that steps take, by their number of rows.
class StepTimes {
 public:
  void note(int rows, double seconds) {
    Entry& entry = entries_[index(rows)];
    entry.rows = entry.rows == 0 ? rows : 0.8 * entry.rows + 0.2 * rows;
    entry.time.note(seconds);
  }
  bool knows(int rows) const { return entries_[index(rows)].time.known(); }
  // Between what is known, in proportion; beyond it as its nearest neighbour, so that it gets tried.
  double seconds(double rows) const {
    const Entry* below = nullptr;
    for (const Entry& entry : entries_) {
      if (!entry.time.known()) continue;
      if (entry.rows <= rows) {
        below = &entry;
      } else if (below == nullptr) {
        return entry.time.seconds();
      } else {
        const double share = (rows - below->rows) / (entry.rows - below->rows);
        return below->time.seconds() + share * (entry.time.seconds() - below->time.seconds());
      }
    }
    return below == nullptr ? 0 : below->time.seconds();
  }

 private:
  struct Entry {
    double rows = 0;  // on average
    LeastSeconds time;
  };
  static size_t index(int rows) { return static_cast<size_t>(std::bit_width(static_cast<unsigned>(rows))); }
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
