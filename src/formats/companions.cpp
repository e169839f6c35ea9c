#include "formats/companions.h"

namespace edgewise {
namespace fs = std::filesystem;

void copy_companions(const fs::path& from, const fs::path& to) {
  for (const char* name :
       {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
        "chat_template.jinja", "chat_template.json", kChannelScalesFile, kDraftVocabularyFile}) {
    if (fs::exists(from / name)) fs::copy_file(from / name, to / name, fs::copy_options::overwrite_existing);
  }
  constexpr const char* kTemplates = "additional_chat_templates";
  if (fs::is_directory(from / kTemplates))
    fs::copy(from / kTemplates, to / kTemplates, fs::copy_options::overwrite_existing);
}

}  // namespace edgewise
