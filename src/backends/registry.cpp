#include <algorithm>

#include "backends/backend.h"
#include "base/error.h"
#include "base/proc_memory.h"

namespace edgewise {
namespace {

struct Entry {
  std::unique_ptr<Backend> backend;
  int priority;
};

// Built on first use, since backends register from static initializers.
std::vector<Entry>& entries() {
  static std::vector<Entry> all;
  return all;
}

}  // namespace

std::string_view outcome_name(StepOutcome outcome) {
  switch (outcome) {
    case StepOutcome::kDone:
      return "done";
    case StepOutcome::kTooLarge:
      return "the step is larger than the engine was loaded for";
    case StepOutcome::kOutOfMemory:
      return "out of memory";
    case StepOutcome::kDeviceFault:
      return "the device failed";
  }
  return "unknown";
}

size_t Backend::cache_room(const Graph&, const LoadOptions&) const { return proc_bytes("meminfo", "MemAvailable") / 2; }

void register_backend(std::unique_ptr<Backend> backend, int priority) {
  auto& all = entries();
  all.push_back({std::move(backend), priority});
  std::stable_sort(all.begin(), all.end(), [](const Entry& a, const Entry& b) { return a.priority > b.priority; });
}

std::vector<std::string> backend_names() {
  std::vector<std::string> names;
  for (const Entry& entry : entries()) names.emplace_back(entry.backend->name());
  return names;
}

const Backend& find_backend(std::string_view name) {
  for (const Entry& entry : entries()) {
    if (entry.backend->name() == name) return *entry.backend;
  }
  usage_error("--device {}: this build has no such backend; it has: {}", name, fmt::join(backend_names(), ", "));
}

}  // namespace edgewise
