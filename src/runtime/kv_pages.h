// Which page of the KV cache belongs to whom. The pages themselves lie in the backend.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace edgewise {

// A free list of pages; reserve() takes all it needs or nothing.
class KvPages {
 public:
  explicit KvPages(int count);

  int free_count() const { return static_cast<int>(free_.size()); }
  // Extends `table` to hold `tokens` tokens. False, with the table unchanged, when pages run out. Allocates nothing
  // when the table has the capacity.
  bool reserve(std::vector<int32_t>& table, int tokens) noexcept;
  void release(std::vector<int32_t>& table) noexcept;

 private:
  std::vector<int32_t> free_;
};

}  // namespace edgewise
