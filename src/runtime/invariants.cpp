#include <set>

#include "base/error.h"
#include "runtime/scheduler.h"

namespace edgewise {
namespace {

std::string check_order(const std::vector<SchedulerSnapshot::Entry>& list, const char* name) {
  for (size_t i = 1; i < list.size(); ++i) {
    const auto& a = list[i - 1];
    const auto& b = list[i];
    if (a.priority < b.priority || (a.priority == b.priority && a.arrival >= b.arrival)) {
      return fmt::format("{}: sequence {} stands before {}", name, a.arrival, b.arrival);
    }
  }
  return "";
}

std::string check_running(const SchedulerSnapshot::Entry& entry, const SchedulerLimits& limits) {
  const auto covered = static_cast<int>(entry.pages.size()) * kPageTokens;
  if (entry.finished) return "finished and still running";
  if (entry.kv_length >= entry.length)
    return fmt::format("{} of {} tokens in the cache", entry.kv_length, entry.length);
  if (entry.kv_length > covered) return fmt::format("{} tokens in pages for {}", entry.kv_length, covered);
  if (entry.published * kPageTokens > entry.kv_length)
    return fmt::format("{} pages published of {} tokens", entry.published, entry.kv_length);
  if (entry.length > limits.kv_capacity)
    return fmt::format("{} tokens, the cache takes {}", entry.length, limits.kv_capacity);
  return "";
}

}  // namespace

std::string check_invariants(const SchedulerSnapshot& s) {
  if (static_cast<int>(s.running.size()) > s.limits.max_sequences) return "more sequences run than there are slots";
  if (const auto wrong = check_order(s.waiting, "waiting"); !wrong.empty()) return wrong;
  if (const auto wrong = check_order(s.running, "running"); !wrong.empty()) return wrong;
  std::set<uint64_t> arrivals;
  std::vector<std::vector<int32_t>> tables;
  for (const auto& entry : s.waiting) {
    if (!entry.pages.empty() || entry.kv_length != 0) return fmt::format("sequence {} waits with pages", entry.arrival);
    if (!arrivals.insert(entry.arrival).second) return fmt::format("sequence {} is there twice", entry.arrival);
  }
  for (const auto& entry : s.running) {
    if (const auto wrong = check_running(entry, s.limits); !wrong.empty())
      return fmt::format("sequence {}: {}", entry.arrival, wrong);
    if (!arrivals.insert(entry.arrival).second) return fmt::format("sequence {} is there twice", entry.arrival);
    tables.push_back(entry.pages);
  }
  return check_invariants(s.cache, tables);
}

}  // namespace edgewise
