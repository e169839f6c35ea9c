// Kernel choice by timing, and the cache of its results.
#pragma once

#include <filesystem>

#include "backends/backend.h"

namespace edgewise {

// Which CPU, instruction set and core count timings belong to.
std::string machine_fingerprint();

// Times the backend's kernels for each kind of Linear at N = 1, 2, 4 ... 512 and writes the winners into the nodes'
// "tactics" attribute ("1:gemv,8:gemm"). Results of this machine are taken from and added to `cache` when it has a
// name. Returns the number of kernels timed.
int choose_tactics(Graph& graph, const Backend& backend, const std::filesystem::path& cache);

}  // namespace edgewise
