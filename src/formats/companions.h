// The files that travel beside a model through every stage: config, tokenizer, chat template, channel scales.
#pragma once

#include <filesystem>

namespace edgewise {

void copy_companions(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace edgewise
