// Numbers in the shapes that "%d", "%.3f" and "{:,}" ask for.
#pragma once

#include <cstdint>
#include <string>

namespace edgewise::jinja {

inline constexpr int64_t kMaxFormatWidth = 1'000'000;
inline constexpr int kMaxPrecision = 10'000;

// Digits of |value| in base 2, 8, 10 or 16, without sign and prefix.
std::string integer_digits(int64_t value, int base, bool upper);
// |value| with a conversion of e, f or g (either case), without sign; `alternate` keeps the point and zeros.
std::string float_digits(double value, char conversion, int precision, bool alternate);

}  // namespace edgewise::jinja
