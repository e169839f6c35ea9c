#pragma once

#include <string_view>

namespace edgewise {

// Chats as JSON lines, for calibration without a data set of one's own: models/calibration.jsonl, compiled in.
std::string_view calibration_text();

}  // namespace edgewise
