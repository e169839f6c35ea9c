// Bounds on what one render may spend. Templates come with models, from strangers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgewise::jinja {

inline constexpr int64_t kMaxSteps = 40'000'000;            // expression evaluations, loop turns, items handled
inline constexpr size_t kMaxTextBytes = size_t{64} << 20;   // one string, and the output
inline constexpr size_t kMaxLiveBytes = size_t{512} << 20;  // strings and containers alive at once
inline constexpr size_t kMaxListItems = 4'000'000;
inline constexpr int kMaxValueDepth = 600;  // containers in containers
inline constexpr int kMaxCallDepth = 200;   // macros, callers and recursive loops in each other
inline constexpr size_t kMaxStackBytes = size_t{1} << 20;

// While one lives, it counts what this thread's engine does. Values must not outlive it.
class Budget {
 public:
  Budget();
  ~Budget();
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

  // Throws Failure("LimitError") past the bound; free outside of a render, as while parsing.
  static void step(int64_t count = 1);
  // Before building a string of so many bytes, a list of so many items.
  static void check_text(size_t bytes);
  static void check_items(size_t count);
  // Before recursing: throws when too much of this thread's stack is in use.
  static void check_stack();

 private:
  friend class Accounted;
  Budget* outer_;
  int64_t steps_ = 0;
  size_t live_bytes_ = 0;
  const char* stack_base_;
};

// A heap value that counts against the budget it was made under.
class Accounted {
 public:
  explicit Accounted(size_t bytes);
  ~Accounted();
  Accounted(const Accounted&) = delete;
  Accounted& operator=(const Accounted&) = delete;

 private:
  Budget* budget_;
  size_t bytes_;
};

}  // namespace edgewise::jinja
