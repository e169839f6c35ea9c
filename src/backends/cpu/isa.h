// Which instruction set the CPU backend's kernels use.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace edgewise::cpu {

enum class Isa { kBaseline, kAvx2, kAvx512, kAvx512Vnni };

// "baseline" is what every CPU of the architecture has: NEON on arm64, SSSE3 on x86-64.
std::string_view isa_name(Isa isa);
// What this CPU runs, slowest first.
std::vector<Isa> supported_isas();
// The fastest, or what EDGEWISE_FORCE_ISA names; throws Error(kUsage) listing the valid names otherwise.
Isa choose_isa();

}  // namespace edgewise::cpu
