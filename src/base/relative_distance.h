// How far numbers are from those they should be.
#pragma once

#include <cmath>
#include <cstddef>
#include <span>

namespace edgewise {

// Root mean square of the difference over that of `expected`, which is as long.
inline double relative_distance(std::span<const float> found, std::span<const float> expected) {
  double difference = 0;
  double size = 1e-30;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += (double{found[i]} - double{expected[i]}) * (double{found[i]} - double{expected[i]});
    size += double{expected[i]} * double{expected[i]};
  }
  return std::sqrt(difference / size);
}

}  // namespace edgewise
