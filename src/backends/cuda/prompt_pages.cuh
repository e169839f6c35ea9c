// What a block of attention_prompt.cu has in shared memory, and how keys and values come there.
#pragma once

#include "backends/cuda/async_copy.cuh"
#include "backends/cuda/attention_head.cuh"
#include "backends/cuda/attention_kernels.h"
#include "backends/cuda/attention_tile.cuh"

namespace edgewise::cuda {

inline constexpr int kPromptWarps = 4;

// How a block lays out its work. kDim: head_dim, rounded up to what there is a kernel for; what is too much is zeros.
// Shared memory: queries, then stages of keys and values, all of them rows of kDim operands.
template <typename T, int kDim>
struct PromptShape {
  static constexpr bool kBF16 = Cache<T>::kBF16;
  // 8-bit caches come as they are, and each thread unpacks what it has copied.
  static constexpr bool kPacked = Cache<T>::kScaled;
  static constexpr int kRowTiles = prompt_queries(kDim) / (kPromptWarps * 16);  // of 16 queries, a warp's
  static constexpr int kQueries = kPromptWarps * kRowTiles * 16;
  static constexpr int kTokens = kDim > 128 ? 32 : kPageSlots;  // at a time
  static constexpr int kWords = kDim / 8;                       // of eight columns, in a row
  static constexpr int kRowBytes = kDim * 2;
  static constexpr int kBlockBytes = kTokens * kRowBytes;  // keys or values of a stage
  static constexpr int kStages = kPacked ? 1 : 2;
  static constexpr int kStage = kQueries * kRowBytes;  // where the first one begins
  static constexpr int kCodes = kStage + kStages * 2 * kBlockBytes;
  static constexpr int kScales = kCodes + (kPacked ? kBlockBytes : 0);
  static constexpr int kBytes = kScales + (kPacked ? 2 * kTokens * 4 : 0);

  // Words of a row are swapped so that eight rows' words of the same columns lie in different banks.
  static constexpr int kSpan = kDim % 64 == 0 ? 128 : 64;  // bytes within which they are
  __device__ static uint32_t place(int row, int word) {
    return row * kRowBytes + (word ^ (kSpan == 128 ? row % 8 : row / 2 % 4)) * 16;
  }

  // Which words a thread brings: those of every kSpanRows-th row, kSpanWords apart.
  static constexpr int kSpanWords = kSpan / 16;
  static constexpr int kSpanRows = kPromptWarps * 32 / kSpanWords;
  // f(i, row, word) for those of kRows rows of `dim` columns; i counts them.
  template <int kRows, typename F>
  __device__ static __forceinline__ void each_word(int dim, F f) {
    const int row = static_cast<int>(threadIdx.x) / kSpanWords;
    const int word = static_cast<int>(threadIdx.x) % kSpanWords;
#pragma unroll
    for (int i = 0; i < kRows / kSpanRows; ++i) {
#pragma unroll
      for (int j = 0; j < kWords / kSpanWords; ++j) {
        if (dim == kDim || (word + j * kSpanWords) * 8 < dim)
          f(i * (kWords / kSpanWords) + j, row + i * kSpanRows, word + j * kSpanWords);
      }
    }
  }

  // From the place of columns 0 to 15 to that of others of the same row.
  __device__ static uint32_t at_step(uint32_t place, int step) {
    return (place ^ (step * 32 % kSpan)) + step * 32 / kSpan * kSpan;
  }
};

// Four matrices of 8 x 8, of whose rows the lanes give the places (PTX ISA, "ldmatrix").
__device__ inline void load_matrices(uint32_t (&to)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from));
}
__device__ inline void load_transposed(uint32_t (&to)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from));
}
__device__ inline void store_word(uint32_t to, const uint32_t (&from)[4]) {
  asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(from[0]), "r"(from[1]), "r"(from[2]), "r"(from[3])
               : "memory");
}

// Brings the cache to shared memory, kTokens at a time.
template <typename T, int kDim>
class PromptLoader {
 public:
  using S = PromptShape<T, kDim>;
  __device__ PromptLoader(const KvLayer& layer, const int32_t* pages, uint32_t shared)
      : layer_(layer), pages_(pages), shared_(shared) {}

  // Starts to copy piece `number`, to a stage where they are not packed.
  __device__ void copy(int number, int stage) {
    constexpr int kPieces = kPageSlots / S::kTokens;
    const int64_t head = static_cast<int64_t>(pages_[number / kPieces]) * layer_.kv_heads + blockIdx.x;
    const int64_t slot = head * kPageSlots + number % kPieces * S::kTokens;
    const int dim = layer_.head_dim;
    const T* keys = static_cast<const T*>(layer_.keys) + slot * dim;
    const T* values = static_cast<const T*>(layer_.values) + slot * dim;
    S::template each_word<S::kTokens>(dim, [&](int i, int row, int word) {
      const int from = row * dim + word * 8;
      if constexpr (S::kPacked) {
        copy_half_word(own_codes(0, i), keys + from);
        copy_half_word(own_codes(1, i), values + from);
      } else {
        const uint32_t to = shared_ + S::kStage + stage * 2 * S::kBlockBytes + S::place(row, word);
        copy_word(to, keys + from);
        copy_word(to + S::kBlockBytes, values + from);
      }
    });
    if constexpr (S::kPacked) {
      const int i = static_cast<int>(threadIdx.x) * 4;
      if (i < S::kTokens) copy_word(shared_ + S::kScales + i * 4, layer_.key_scales + slot + i);
      if (i < S::kTokens) copy_word(shared_ + S::kScales + (S::kTokens + i) * 4, layer_.value_scales + slot + i);
    }
    end_stage();
  }

  // What this thread has copied, as halves in the stage. Scales are limited as halves are.
  __device__ void unpack() const {
    const auto unpack_word = [&](int i, int row, int word, int block) {
      constexpr float kMost = 65504.0f / kLargestCode<T>;
      uint2 codes;
      float scale;
      asm volatile("ld.shared.v2.b32 {%0,%1}, [%2];" : "=r"(codes.x), "=r"(codes.y) : "r"(own_codes(block, i)));
      asm volatile("ld.shared.f32 %0, [%1];"
                   : "=f"(scale)
                   : "r"(shared_ + S::kScales + (block * S::kTokens + row) * 4));
      scale = fminf(scale, kMost);
      uint32_t halves[4];
      unpack_eight<T>(codes, halves);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float2 pair = __half22float2(half2_of(halves[j]));
        halves[j] = bits_of(__floats2half2_rn(pair.x * scale, pair.y * scale));
      }
      store_word(shared_ + S::kStage + block * S::kBlockBytes + S::place(row, word), halves);
    };
    S::template each_word<S::kTokens>(layer_.head_dim, [&](int i, int row, int word) {
      unpack_word(i, row, word, 0);
      unpack_word(i, row, word, 1);
    });
  }

 private:
  // Where the i-th codes lie that this thread brings, of keys and of values.
  __device__ uint32_t own_codes(int block, int i) const {
    return shared_ + S::kCodes + block * S::kBlockBytes / 2 +
           (i * kPromptWarps * 32 + static_cast<int>(threadIdx.x)) * 8;
  }

  const KvLayer& layer_;
  const int32_t* pages_;
  uint32_t shared_;
};

}  // namespace edgewise::cuda
