// What Highway compiles kernels for; include before hwy/foreach_target.h. Each kernel file is compiled once
// for each target, into its own namespace, with that target's instructions enabled by pragma: no compiler
// flags.
#pragma once

// "baseline" on x86-64 is SSSE3, which every CPU since 2011 has; Highway's plain C is broken with older GCC.
#if defined(__x86_64__)
#define HWY_BASELINE_TARGETS HWY_SSSE3
#endif
#define HWY_DISABLED_TARGETS (HWY_SCALAR | HWY_EMU128 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)

// Unrolls a loop over registers: an array indexed by it must never reach memory.
#define EDGEWISE_UNROLL _Pragma("GCC unroll 32")

#include "hwy/detect_targets.h"

#include "backends/cpu/isa.h"

// Picks the function of `isa` from those compiled; for the HWY_ONCE part of a kernel file.
#if HWY_ARCH_X86
#define EDGEWISE_PICK(isa, function)                         \
  ((isa) >= ::edgewise::cpu::Isa::kAvx512 ? N_AVX3::function \
   : (isa) == ::edgewise::cpu::Isa::kAvx2 ? N_AVX2::function \
                                          : N_SSSE3::function)
#else
#define EDGEWISE_PICK(isa, function) HWY_STATIC_DISPATCH(function)
#endif
