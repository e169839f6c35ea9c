#include "runtime/kv_pages.h"

#include "backends/backend.h"

namespace edgewise {

KvPages::KvPages(int count) {
  for (int32_t page = count - 1; page >= 0; --page) free_.push_back(page);
}

bool KvPages::reserve(std::vector<int32_t>& table, int tokens) noexcept {
  const auto needed = static_cast<size_t>((tokens + kPageTokens - 1) / kPageTokens);
  if (needed <= table.size()) return true;
  if (needed - table.size() > free_.size()) return false;
  while (table.size() < needed) {
    table.push_back(free_.back());
    free_.pop_back();
  }
  return true;
}

void KvPages::release(std::vector<int32_t>& table) noexcept {
  while (!table.empty()) {
    free_.push_back(table.back());
    table.pop_back();
  }
}

}  // namespace edgewise
