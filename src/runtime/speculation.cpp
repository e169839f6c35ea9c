#include "runtime/speculation.h"

namespace edgewise {

OrderedJson to_json(const SpeculationStats& s) {
  const auto each = [&](double total) { return total / static_cast<double>(std::max<int64_t>(1, s.verifications)); };
  return {{"acceptance_length", s.acceptance_length()},
          {"verifications", s.verifications},
          {"drafted_tokens", s.drafted},
          {"accepted_tokens", s.accepted},
          {"draft_ms_a_verification", each(s.draft_seconds * 1e3)},
          {"verify_ms_a_verification", each(s.verify_seconds * 1e3)}};
}

SpeculationStats operator-(const SpeculationStats& a, const SpeculationStats& b) {
  return {a.verifications - b.verifications, a.drafted - b.drafted, a.accepted - b.accepted,
          a.draft_seconds - b.draft_seconds, a.verify_seconds - b.verify_seconds};
}

}  // namespace edgewise
