// A reduced vocabulary: which tokens have logits. A file vocab_map.safetensors with the tensor "vocab_map", i32 or i64
// [n], ascending token ids; it travels beside the ONNX file and the engine, since the model's own tables stay whole.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "base/tensor.h"
#include "formats/companions.h"

namespace edgewise {

// Throws Error(kBadFile) unless ids ascend and lie in [0, vocabulary).
std::vector<int32_t> read_vocab_map(const std::filesystem::path& file, int64_t vocabulary);
void write_vocab_map(const std::filesystem::path& file, std::span<const int32_t> kept);

// The rows of `tensor` that `kept` names, any dtype whose rows are whole bytes.
Tensor gather_rows(const Tensor& tensor, std::span<const int32_t> kept);

}  // namespace edgewise
