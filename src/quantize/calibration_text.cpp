#include "quantize/calibration_text.h"

extern "C" const char edgewise_calibration_begin;
extern "C" const char edgewise_calibration_end;

namespace edgewise {

std::string_view calibration_text() {
  return {&edgewise_calibration_begin, static_cast<size_t>(&edgewise_calibration_end - &edgewise_calibration_begin)};
}

}  // namespace edgewise
