// Greedy choices: of a row of logits, and of those rows of a step that ask for nothing else.
#pragma once

#include <cstdint>
#include <span>

namespace edgewise {

// Index of the largest logit; the first one of equals, and 0 where none is a number.
int32_t argmax(std::span<const float> logits) noexcept;

// What Executable::run() does with `chosen` where logits [R, columns] lie in the host's memory: draws are left to the
// caller.
void pick_best(std::span<const float> logits, int64_t columns, std::span<int32_t> chosen) noexcept;

}  // namespace edgewise
