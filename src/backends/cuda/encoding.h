// The numbers of layout.h that kernels know too.
#pragma once

#include <cstdint>

namespace edgewise::cuda {

inline constexpr int64_t kBlockRows = 16;
inline constexpr int64_t kChunkColumns = 64;

enum class Encoding : uint8_t { kF32, kF16, kBF16, kF8, kInt8, kInt4, kF4 };

// What a row's scales cover: all of it; whole chunks; or 16, 32 or 48 columns, which a lane owns alone.
enum class Scaling : uint8_t { kRow, kChunks, kLanes };

}  // namespace edgewise::cuda
