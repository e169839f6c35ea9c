// Linear for weights that are multiplied as float32, many tokens at a time: a block of weights is decoded into the
// cache and used for all of them. Same bits as linear_direct.cpp.
#include "backends/cpu/kernels.h"
#include "backends/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/linear_blocked.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include <algorithm>
#include <cstring>

#include "backends/cpu/float_weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace edgewise::cpu::HWY_NAMESPACE {
namespace {

// Registers hold kTileTokens x kTilePanels panels of sums.
constexpr int kTilePanels = kLanes == 16 ? 2 : 1;
constexpr int kTileTokens = kLanes == 16 ? 12 : kLanes == 8 ? 6 : HWY_TARGET == HWY_NEON ? 6 : 2;
constexpr int kTileColumns = kTilePanels * kPanel;
constexpr int kChunk = 128;          // of k, decoded at a time: 16 KiB, in the first-level cache
constexpr int kTokensTogether = 96;  // tokens whose activations for a chunk wait in the second-level cache
constexpr int kTilesTogether = 8;    // tiles of panels that share those
constexpr int kRowStride = kChunk + kPanel;

template <Encoding E>
void decode_chunk(const LinearCall& call, int64_t panel, int panels, int64_t begin, int64_t end, float* out) {
  const DF d;
  const PackedFormat& format = *call.format;
  const bool block_scales = format.blocks > 1;
  for (int p = 0; p < panels; ++p) {
    const std::byte* base = call.weights + static_cast<size_t>(panel + p) * format.panel_bytes;
    const auto* weights = reinterpret_cast<const uint8_t*>(base + format.weights_offset);
    for (int64_t k = begin; k < end;) {
      const int64_t stop = block_scales ? std::min((k / format.block + 1) * format.block, end) : end;
      for (int part = 0; part < kParts; ++part) {
        VF scale = hn::Set(d, 1.0f);
        if (block_scales) {
          scale = hn::Mul(load_scales(format.scale, base, k / format.block, part), hn::Set(d, kDecodeFactor<E>));
        }
        float* to = out + (k - begin) * kTileColumns + p * kPanel + part * kLanes;
        for (int64_t i = k; i < stop;) {
          VF w[kStep<E>];
          const bool step = i % kStep<E> == 0 && i + kStep<E> <= stop;
          if (step) {
            decode_step<E>(weights, i, part, w);
          } else {
            w[0] = decode<E>(weights, i, part);
          }
          const int count = step ? kStep<E> : 1;
          for (int j = 0; j < count; ++j, ++i, to += kTileColumns) {
            hn::StoreU(block_scales ? hn::Mul(w[j], scale) : w[j], d, to);
          }
        }
      }
      k = stop;
    }
  }
}

template <int kTokens>
HWY_INLINE void blocked_tile(const float* weights, const float* x, int64_t count, float* sums) {
  const DF d;
  constexpr int kVectors = kTilePanels * kParts;
  VF acc[kTokens][kVectors];
  EDGEWISE_UNROLL for (int t = 0; t < kTokens; ++t) {
    EDGEWISE_UNROLL for (int v = 0; v < kVectors; ++v) acc[t][v] = hn::LoadU(d, sums + t * kTileColumns + v * kLanes);
  }
  for (int64_t k = 0; k < count; ++k) {
    VF w[kVectors];
    EDGEWISE_UNROLL for (int v = 0; v < kVectors; ++v) w[v] = hn::LoadU(d, weights + k * kTileColumns + v * kLanes);
    EDGEWISE_UNROLL for (int t = 0; t < kTokens; ++t) {
      const VF value = hn::Set(d, x[t * kRowStride + k]);
      EDGEWISE_UNROLL for (int v = 0; v < kVectors; ++v) acc[t][v] = hn::MulAdd(w[v], value, acc[t][v]);
    }
  }
  EDGEWISE_UNROLL for (int t = 0; t < kTokens; ++t) {
    EDGEWISE_UNROLL for (int v = 0; v < kVectors; ++v) hn::StoreU(acc[t][v], d, sums + t * kTileColumns + v * kLanes);
  }
}

template <int kTokens>
void blocked_tail(const float* weights, const float* x, int64_t count, int tokens, float* sums) {
  if constexpr (kTokens > 0) {
    if (tokens == kTokens) return blocked_tile<kTokens>(weights, x, count, sums);
    blocked_tail<kTokens - 1>(weights, x, count, tokens, sums);
  }
}

// What the blocked walk works in; about 170 KiB of stack.
struct Scratch {
  alignas(64) float decoded[kChunk * kTileColumns];
  // Rows whose length is a power of two would all fall on the same few sets of the caches: they are copied.
  alignas(64) float rows[kTokensTogether * kRowStride];
  alignas(64) float sums[kTilesTogether][kTokensTogether * kTileColumns];
};

void copy_rows(const LinearCall& call, int first, int tokens, int64_t k, int64_t count, Scratch& scratch) {
  for (int t = 0; t < tokens; ++t) {
    std::memcpy(scratch.rows + t * kRowStride, call.x + (first + t) * call.x_stride + k,
                static_cast<size_t>(count) * sizeof(float));
  }
}

void multiply_chunk(const Scratch& scratch, int tokens, int64_t count, float* sums) {
  int t = 0;
  for (; t + kTileTokens <= tokens; t += kTileTokens) {
    blocked_tile<kTileTokens>(scratch.decoded, scratch.rows + t * kRowStride, count, sums + t * kTileColumns);
  }
  blocked_tail<kTileTokens - 1>(scratch.decoded, scratch.rows + t * kRowStride, count, tokens - t,
                                sums + t * kTileColumns);
}

template <Encoding E>
void finish_tile(const LinearCall& call, int64_t panel, int panels, int first, int tokens, const float* sums) {
  for (int t = 0; t < tokens; ++t) {
    for (int p = 0; p < panels; ++p) {
      VF values[kParts];
      for (int part = 0; part < kParts; ++part) {
        values[part] = hn::LoadU(DF(), sums + t * kTileColumns + p * kPanel + part * kLanes);
      }
      finish_panel<E>(call, panel + p, first + t, values);
    }
  }
}

// Panels [panel, end), at most kTilesTogether tiles, for tokens [first, first + tokens).
template <Encoding E>
void blocked_part(const LinearCall& call, int64_t panel, int64_t end, int first, int tokens, Scratch& scratch) {
  const auto panels_of = [&](int64_t at) { return static_cast<int>(std::min<int64_t>(kTilePanels, end - at)); };
  const int tiles = static_cast<int>((end - panel + kTilePanels - 1) / kTilePanels);
  for (int i = 0; i < tiles; ++i) {
    std::memset(scratch.sums[i], 0, sizeof(float) * static_cast<size_t>(tokens * kTileColumns));
  }
  for (int64_t k = 0; k < call.format->k; k += kChunk) {
    const int64_t count = std::min<int64_t>(kChunk, call.format->k - k);
    copy_rows(call, first, tokens, k, count, scratch);
    for (int i = 0; i < tiles; ++i) {
      const int64_t at = panel + i * kTilePanels;
      decode_chunk<E>(call, at, panels_of(at), k, k + count, scratch.decoded);
      multiply_chunk(scratch, tokens, count, scratch.sums[i]);
    }
  }
  for (int i = 0; i < tiles; ++i) {
    const int64_t at = panel + i * kTilePanels;
    finish_tile<E>(call, at, panels_of(at), first, tokens, scratch.sums[i]);
  }
}

template <Encoding E>
void blocked(const LinearCall& call) noexcept {
  Scratch scratch;
  // Columns of panels that a last, narrow tile lacks are multiplied all the same and never stored.
  std::memset(scratch.decoded, 0, sizeof(scratch.decoded));
  constexpr int kPanelsTogether = kTilesTogether * kTilePanels;
  for (int64_t panel = call.panel_begin; panel < call.panel_end; panel += kPanelsTogether) {
    const int64_t end = std::min(panel + kPanelsTogether, call.panel_end);
    for (int first = 0; first < call.tokens; first += kTokensTogether) {
      blocked_part<E>(call, panel, end, first, std::min(kTokensTogether, call.tokens - first), scratch);
    }
  }
}

LinearKernel pick(Encoding encoding) {
  return for_encoding(encoding, []<Encoding E>() -> LinearKernel { return blocked<E>; });
}

}  // namespace
}  // namespace edgewise::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace edgewise::cpu {

LinearKernel blocked_linear_kernel(Isa isa, Encoding encoding) { return EDGEWISE_PICK(isa, pick)(encoding); }

}  // namespace edgewise::cpu
#endif
