// Products of a tile's rows and x: of many columns by warpgroups, four warps that multiply operands in their registers
// with x in shared memory (PTX ISA, "wgmma"; compute capability 9.0 alone has it), of few by warps.
#pragma once

#include "backends/cuda/group_operands.cuh"

namespace edgewise::cuda {

// Where 64 columns of x lie, of which 16 begin at `address`: a column's words of 16 bytes change places with the
// column's number, which is the layout of 128 bytes (PTX ISA, "Asynchronous Warpgroup Level Matrix Shared Memory
// Layout"); eight columns are 1024 bytes.
__device__ inline uint64_t describe_x(uint32_t address) {
  return uint64_t{1} << 62 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 16 | (address & 0x3ffff) >> 4;
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define EDGEWISE_WGMMA(shape, type, outputs, a0, a1, a2, a3, x, ...)                                              \
  asm volatile("wgmma.mma_async.sync.aligned.m64" shape "k16.f32." type "." type " {" outputs "}, {%" a0 ", %" a1 \
               ", %" a2 ", %" a3 "}, %" x ", 1, 1, 1, 0;"                                                         \
               : __VA_ARGS__                                                                                      \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(x_at))

// d, 64 x 32 of a warpgroup, += a, 16 rows a warp, times 16 rows of x.
template <bool kBF16>
__device__ inline void multiply_group(float (&d)[16], const uint32_t (&a)[4], uint64_t x_at) {
  if constexpr (kBF16)
    EDGEWISE_WGMMA("n32", "bf16", "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15", "16", "17",
                   "18", "19", "20", "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
                   "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),
                   "+f"(d[15]));
  else
    EDGEWISE_WGMMA("n32", "f16", "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15", "16", "17",
                   "18", "19", "20", "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
                   "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),
                   "+f"(d[15]));
}

// d, 64 x 64 of a warpgroup, += a, 16 rows a warp, times 16 rows of x.
template <bool kBF16>
__device__ inline void multiply_group(float (&d)[32], const uint32_t (&a)[4], uint64_t x_at) {
  if constexpr (kBF16)
    EDGEWISE_WGMMA("n64", "bf16",
                   "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
                   "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31",
                   "32", "33", "34", "35", "36", "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
                   "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
                   "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
                   "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
                   "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]));
  else
    EDGEWISE_WGMMA("n64", "f16",
                   "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
                   "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31",
                   "32", "33", "34", "35", "36", "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
                   "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
                   "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
                   "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
                   "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]));
}
#undef EDGEWISE_WGMMA
// 128 columns are twice 64.
template <bool kBF16>
__device__ inline void multiply_group(float (&d)[64], const uint32_t (&a)[4], uint64_t x_at) {
  multiply_group<kBF16>(reinterpret_cast<float(&)[32]>(d[0]), a, x_at);
  multiply_group<kBF16>(reinterpret_cast<float(&)[32]>(d[32]), a, x_at + (64 * 128 >> 4));
}
#endif

// Registers are what they seem to be, before and behind asynchronous products.
template <int kCount>
__device__ inline void hold(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
__device__ inline void hold(uint32_t (&a)[4][4]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) asm volatile("" : "+r"(a[i / 4][i % 4])::"memory");
}

// Where a warp's 16 rows lie in a stage, of which they are block number `block_of_tile`.
template <typename T>
class RowsInStage {
 public:
  __device__ RowsInStage(const BatchCall& call, int block_of_tile)
      : columns_(call), zeros_(call.matrix.zeros), block_at_(T::kXBytes + block_of_tile * T::kBlockBytes) {}

 protected:
  __device__ int first_column(int chunk) const { return columns_.of(chunk, 0); }  // of scales
  __device__ void load(RawChunk<T>& raw, const char* stage, int chunk, int c, int first) const {
    raw.load(stage + block_at_, columns_, zeros_, chunk, c, first);
  }
  __device__ void unpack(const RawChunk<T>& raw, uint32_t (&a)[4][4]) const { raw.unpack(zeros_, a); }

 private:
  ScaleColumns<T> columns_;
  bool zeros_;
  int block_at_;
};

// A warp's 16 rows of a tile, times x, by warpgroups.
template <typename T>
class GroupProduct : RowsInStage<T> {
 public:
  using RowsInStage<T>::RowsInStage;

  // Chunks [chunk, end) of a stage. Calls release() as soon as the stages before are not read any more.
  template <typename Release>
  __device__ void add_stage(const char* stage, int chunk, int end, Release release) {
    const int first = this->first_column(chunk);
#pragma unroll
    for (int c = 0; c < T::kChunks; ++c) {
      if (chunk + c >= end) break;
      RawChunk<T> raw;
      if constexpr (T::kEarly) this->load(raw, stage, chunk, c, first);
      finish();
      if (c == 0) release();
      if constexpr (!T::kEarly) this->load(raw, stage, chunk, c, first);
      this->unpack(raw, operands_);
      start(shared_address(stage) + c * (T::kColumns * 128));
      scale_ = raw.scale;
    }
  }
  // Until what was begun is done, if anything was.
  __device__ void finish() {
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    hold(operands_);
    if constexpr (T::kPartly) {
      hold(partial_);
#pragma unroll
      for (int i = 0; i < kSums; ++i) sums_[i] = fmaf(i % 4 < 2 ? scale_.x : scale_.y, partial_[i], sums_[i]);
      scale_ = {};
    } else {
      hold(sums_);
    }
  }
  // Of a token, 0 or 1 of every four columns' pair: row g or, with `lower`, g + 8.
  __device__ float sum(int tile, int lower, int of_pair) const {
    const float first = sums_[tile * 4 + lower * 2 + of_pair];
    return T::kCopies == 2 ? first + sums_[tile * 4 + lower * 2 + 1] : first;
  }
  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kSums; ++i) sums_[i] = 0;
  }

 private:
  static constexpr int kSums = T::kColumns / 2;

  __device__ void start(uint32_t x) {
    hold(operands_);
    float(&sums)[kSums] = T::kPartly ? partial_ : sums_;
    if constexpr (T::kPartly) {
#pragma unroll
      for (int i = 0; i < kSums; ++i) sums[i] = 0;
    }
    hold(sums);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    const uint64_t at = describe_x(x);
#pragma unroll
    for (int i = 0; i < 4; ++i) multiply_group<T::kBF16>(sums, operands_[i], at + i * 2);
#endif
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  }

  uint32_t operands_[4][4] = {};
  float sums_[kSums] = {};
  float partial_[kSums] = {};
  float2 scale_ = {};
};

// The same by warps: a warpgroup's products take about 30 clocks however few the columns, which is longer.
template <typename T>
class WarpProduct : RowsInStage<T> {
 public:
  using RowsInStage<T>::RowsInStage;

  template <typename Release>
  __device__ void add_stage(const char* stage, int chunk, int end, Release release) {
    const int first = this->first_column(chunk);
    release();
#pragma unroll
    for (int c = 0; c < T::kChunks; ++c) {
      if (chunk + c >= end) break;
      RawChunk<T> raw;
      this->load(raw, stage, chunk, c, first);
      multiply(raw, stage + c * (T::kColumns * 128));
    }
  }
  __device__ void finish() {}
  __device__ float sum(int tile, int lower, int of_pair) const {
    const float first = sums_[tile][lower * 2 + of_pair];
    return T::kCopies == 2 ? first + sums_[tile][lower * 2 + 1] : first;
  }
  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kTiles * 4; ++i) sums_[i / 4][i % 4] = 0;
  }

 private:
  static constexpr int kTiles = T::kColumns / 8;

  __device__ void multiply(const RawChunk<T>& raw, const char* x) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int g = lane / 4;
    uint32_t a[4][4];
    this->unpack(raw, a);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const auto* column = reinterpret_cast<const uint4*>(x + (tile * 8 + g) * 128);
      float partial[4] = {};
      float(&sums)[4] = T::kPartly ? partial : sums_[tile];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint4 b = column[(h ^ (g & 1)) * 4 + lane % 4];
        multiply_tile<T::kBF16>(sums, a[2 * h], b.x, b.y);
        multiply_tile<T::kBF16>(sums, a[2 * h + 1], b.z, b.w);
      }
      if constexpr (T::kPartly) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          sums_[tile][i] = fmaf(i < 2 ? raw.scale.x : raw.scale.y, partial[i], sums_[tile][i]);
      }
    }
  }

  float sums_[kTiles][4] = {};
};

template <typename T>
using ProductOf = std::conditional_t<T::kByWarps, WarpProduct<T>, GroupProduct<T>>;

}  // namespace edgewise::cuda
