#include "backends/cpu/backend.h"

namespace edgewise::cpu {
namespace {

[[maybe_unused]] const bool kRegistered = [] {
  register_backend(std::make_unique<CpuBackend>(), 10);
  return true;
}();

}  // namespace
}  // namespace edgewise::cpu
