#include "graph/op.h"

#include <array>

namespace edgewise {
namespace {

// In the order of the enum.
constexpr std::array<std::string_view, kOpCount> kNames = {
    "embedding", "linear",       "rms_norm",       "layer_norm", "rotary_table", "rotary", "attention",   "add",
    "mul",       "scale",        "silu",           "gelu",       "relu",         "square", "softcap",     "swiglu",
    "geglu",     "add_rms_norm", "gather_columns", "concat",     "route",        "moe",    "select_rows",
};

}  // namespace

std::string_view op_name(Op op) { return kNames[static_cast<size_t>(op)]; }

bool op_from_name(std::string_view name, Op& op) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) {
      op = static_cast<Op>(i);
      return true;
    }
  }
  return false;
}

}  // namespace edgewise
