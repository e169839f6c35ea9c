#include "backends/cpu/isa.h"

#include <cstdlib>

#include "base/error.h"

namespace edgewise::cpu {

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::kBaseline:
      return "baseline";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Vnni:
      return "avx512vnni";
  }
  return "unknown";
}

std::vector<Isa> supported_isas() {
  std::vector<Isa> isas{Isa::kBaseline};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi2")) {
    return isas;
  }
  isas.push_back(Isa::kAvx2);
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return isas;
  }
  isas.push_back(Isa::kAvx512);
  if (__builtin_cpu_supports("avx512vnni")) isas.push_back(Isa::kAvx512Vnni);
#endif
  return isas;
}

Isa choose_isa() {
  const std::vector<Isa> isas = supported_isas();
  const char* forced = std::getenv("EDGEWISE_FORCE_ISA");
  if (forced == nullptr || *forced == '\0') return isas.back();
  std::string names;
  for (const Isa isa : isas) {
    if (isa_name(isa) == forced) return isa;
    if (!names.empty()) names += ", ";
    names += isa_name(isa);
  }
  usage_error("EDGEWISE_FORCE_ISA={}: unknown, or not an instruction set of this CPU; it has: {}", forced, names);
}

}  // namespace edgewise::cpu
