// The files that travel beside a model through every stage: config, tokenizer, chat template, channel scales.
#pragma once

#include <filesystem>

namespace edgewise {

// What the indices of a draft head's vocabulary stand for: tensor "d2t" as in EAGLE-3 checkpoints.
inline constexpr const char* kDraftVocabularyFile = "draft_vocabulary.safetensors";
// By what a quantizer divided channels (models/adapter.h). Not called *.safetensors since loaders take such files for
// weights.
inline constexpr const char* kChannelScalesFile = "channel_scales.st";
// The tokens that have logits (models/vocab_map.h). It belongs to an export and what is built of it, not to a model,
// and is no companion.
inline constexpr const char* kVocabMapFile = "vocab_map.safetensors";

void copy_companions(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace edgewise
