// The files that travel beside a model through every stage: config, tokenizer, chat template, channel scales.
#pragma once

#include <filesystem>

namespace edgewise {

// What the indices of a draft head's vocabulary stand for: tensor "d2t" as in EAGLE-3 checkpoints.
inline constexpr const char* kDraftVocabularyFile = "draft_vocabulary.safetensors";

void copy_companions(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace edgewise
