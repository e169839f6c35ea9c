// A packed matrix, or a stack of them, on the device.
#pragma once

#include "backends/cuda/arena.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/layout.h"

namespace edgewise::cuda {

inline constexpr int kMostColumns = 64;  // of one look at an expert's weights

struct DeviceWeights {
  WeightFormat format;
  DeviceBytes memory;
  DeviceBytes bias;

  // Activations as its kernels want them; `many` rows of them are rounded to bf16 where they are pairs otherwise.
  Activation activation(bool many = false) const {
    if (format.encoding == Encoding::kBF16) return many ? Activation::kBF16 : Activation::kBF16Pair;
    return format.token_scales ? Activation::kInt8 : Activation::kF16;
  }
  int copies() const { return activation() == Activation::kBF16Pair ? 2 : 1; }
  bool is_float() const { return format.encoding == Encoding::kF32; }
  size_t bytes() const { return memory.size() + bias.size(); }
  int k_padded() const { return static_cast<int>(format.chunks() * kChunkColumns); }

  // Whether one launch can take both.
  bool joins(const DeviceWeights& other) const {
    const WeightFormat& a = format;
    const WeightFormat& b = other.format;
    return a.encoding == b.encoding && a.scaling == b.scaling && a.zeros == b.zeros &&
           a.token_scales == b.token_scales && a.block == b.block && a.k == b.k;
  }
  // As one more part of a call, which is for matrices like this one.
  void add_to(StreamCall& call, float* out) const {
    StreamPart& part = call.parts[call.part_count++];
    part.weights = memory.as<const uint4>();
    part.factors = memory.as<const float>(format.factors_offset());
    part.scales = memory.as<const std::byte>(format.scales_offset());
    part.zeros = memory.as<const std::byte>(format.zeros_offset());
    part.bias = bias.as<const float>();
    part.out = out;
    part.n = static_cast<int>(format.n);
    part.first_block = call.blocks;
    call.blocks += static_cast<int>(format.row_blocks());
    call.chunks = static_cast<int>(format.chunks());
    call.scale_columns = static_cast<int>(format.scale_columns());
    call.block = static_cast<int>(format.block);
    call.zeros = format.zeros;
    call.stack_bytes = static_cast<int64_t>(format.bytes());
  }
  void run(cudaStream_t stream, const StreamCall& call) const {
    stream_linear(stream, static_cast<int>(format.encoding), static_cast<int>(format.scaling), call);
  }
};

}  // namespace edgewise::cuda
