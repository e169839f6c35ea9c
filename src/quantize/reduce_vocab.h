// Chooses the tokens that a task needs logits for.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace edgewise {

struct ReduceVocabRequest {
  std::filesystem::path model_dir;
  std::filesystem::path output_dir;
  int64_t size = 0;  // tokens to keep
  // "frequency": by how often the text has them. "input_aware": what answers say and their own prompts do not comes
  // first, since the rest can be read off the prompt (arXiv:2508.15229), then by frequency; needs chats.
  std::string method = "frequency";
  std::filesystem::path
      dataset;  // JSON lines with "messages" or "text", or lines of plain text; empty: the built-in chats
  int64_t max_samples = 50000;
  std::filesystem::path coverage_text;  // another text to report on; empty: none
};

struct Coverage {
  std::string source;
  int64_t tokens = 0;
  int64_t covered = 0;   // that have a logit
  int64_t answers = 0;   // samples with an answer
  int64_t complete = 0;  // of those, with every token covered
};

struct ReduceVocabReport {
  int64_t vocabulary = 0;
  int64_t kept = 0;
  int64_t protected_tokens = 0;
  int64_t seen = 0;  // different tokens of the dataset
  std::vector<Coverage> coverage;
};

// Writes OUTPUT_DIR/vocab_map.safetensors. Protected, whatever the counts: special and end tokens, and tokens of a
// single character or byte, with which any text can be spelled. Ties go to the lower id, where tokenizers put what is
// common. Throws Error(kUsage) when the size is below the protected or above all tokens.
ReduceVocabReport reduce_vocabulary(const ReduceVocabRequest& request);

}  // namespace edgewise
