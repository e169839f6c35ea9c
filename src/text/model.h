// The model of a tokenizer: from a word to token ids.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/json.h"
#include "text/vocab.h"
#include "text/word_cache.h"

namespace edgewise::tok {

// What tokenizing needs besides the model; one for each thread and tokenizer.
struct ModelScratch {
  struct Symbol {
    int32_t id;
    int32_t previous;
    int32_t next;
    bool removed;
  };
  struct Candidate {  // a merge that may be due
    uint32_t rank;
    uint32_t position;
    int32_t new_id;
  };
  struct Step {  // the best way to reach a position
    double score;
    size_t start;  // where its last token starts; ~0 while unreached
    int32_t id;
  };

  WordCache cache;
  std::vector<int32_t> ids;
  std::vector<uint64_t> merges;
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
  std::vector<Step> steps;
  std::string text;
};

class TokenModel {
 public:
  virtual ~TokenModel() = default;

  // Appends the ids of `word`, which is not empty. Throws Error(kBadFile) when the word cannot be tokenized
  // because the vocabulary lacks its unknown token.
  virtual void encode(std::string_view word, std::vector<int32_t>& ids, ModelScratch& scratch) const = 0;

  // Whether the model can take a word's bytes instead of GPT-2's symbols for them; it then always gets bytes.
  virtual bool take_bytes() { return false; }

  const Vocab& vocab() const { return vocab_; }
  virtual const std::string* id_to_token(int32_t id) const { return vocab_.token(id); }

 protected:
  // encode() through the cache: `compute(word)` appends the ids of a word not found there.
  template <typename Compute>
  static void encode_cached(std::string_view word, std::vector<int32_t>& ids, ModelScratch& scratch,
                            const Compute& compute) {
    if (word.size() > WordCache::kMaxWordBytes) return compute(word);
    const WordCache::Key key = WordCache::make_key(word);
    if (scratch.cache.find(key, ids)) return;
    const size_t before = ids.size();
    compute(word);
    scratch.cache.put(key, ids.data() + before, ids.size() - before);
  }

  Vocab vocab_;
};

// Reads the "model" section. Throws Error(kUnsupported) or Error(kBadFile).
std::unique_ptr<TokenModel> read_model(const JsonView& view);

}  // namespace edgewise::tok
