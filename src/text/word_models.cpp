#include "text/word_models.h"

#include "base/error.h"
#include "text/bpe.h"
#include "text/unigram.h"
#include "text/utf8.h"

namespace edgewise::tok {
namespace {

int32_t find_unknown(const Vocab& vocab, const std::string& unknown, const std::string& where) {
  const auto id = vocab.find(unknown);
  if (!id) bad_file("{}: unk_token: \"{}\" is not in the vocabulary, but the text needs it", where, unknown);
  return *id;
}

}  // namespace

WordPieceModel::WordPieceModel(const JsonView& view)
    : where_(view.where()), unknown_(view.string("unk_token", "[UNK]")) {
  const int64_t limit = view.integer("max_input_chars_per_word", 100);
  if (limit < 0) view.reject("max_input_chars_per_word", "a number of characters");
  max_chars_ = static_cast<uint64_t>(limit);
  vocab_ = Vocab::read(view, "vocab");
  for (const auto& [token, id] : vocab_.entries()) {
    if (!token.empty()) trie_.add(token, id);
  }
  continuation_ = trie_.walk(ByteTrie::kRoot, view.string("continuing_subword_prefix", "##"));
}

bool WordPieceModel::append_pieces(std::string_view word, std::vector<int32_t>& ids) const {
  const size_t before = ids.size();
  size_t start = 0;
  while (start < word.size()) {
    uint32_t node = start == 0 ? ByteTrie::kRoot : continuation_;
    size_t best_end = start;
    int32_t best = -1;
    for (size_t end = start; node != ByteTrie::kNone && end < word.size();) {
      node = trie_.step(node, static_cast<unsigned char>(word[end++]));
      if (node == ByteTrie::kNone || trie_.value(node) < 0) continue;
      best = trie_.value(node);
      best_end = end;
    }
    if (best < 0) {
      ids.resize(before);
      return false;
    }
    ids.push_back(best);
    start = best_end;
  }
  return true;
}

void WordPieceModel::encode(std::string_view word, std::vector<int32_t>& ids, ModelScratch& scratch) const {
  encode_cached(word, ids, scratch, [&](std::string_view text) {
    const bool too_long = text.size() > max_chars_ && count_chars(text) > max_chars_;
    if (too_long || !append_pieces(text, ids)) ids.push_back(find_unknown(vocab_, unknown_, where_));
  });
}

WordLevelModel::WordLevelModel(const JsonView& view)
    : where_(view.where()), unknown_(view.string("unk_token", "<unk>")) {
  vocab_ = Vocab::read(view, "vocab");
}

void WordLevelModel::encode(std::string_view word, std::vector<int32_t>& ids, ModelScratch& scratch) const {
  encode_cached(word, ids, scratch, [&](std::string_view text) {
    const auto id = vocab_.find(text);
    ids.push_back(id ? *id : find_unknown(vocab_, unknown_, where_));
  });
}

namespace {

// Files from before the field "type" are told apart by what else they have.
std::string model_type(const JsonView& view) {
  if (view.has("type")) return view.string("type");
  if (view.has("merges")) return "BPE";
  if (view.has("vocab") && view.value().at("vocab").is_array()) return "Unigram";
  return view.has("max_input_chars_per_word") ? "WordPiece" : "WordLevel";
}

}  // namespace

std::unique_ptr<TokenModel> read_model(const JsonView& view) {
  const std::string type = model_type(view);
  if (type == "BPE") return std::make_unique<BpeModel>(view);
  if (type == "Unigram") return std::make_unique<UnigramModel>(view);
  if (type == "WordPiece") return std::make_unique<WordPieceModel>(view);
  if (type == "WordLevel") return std::make_unique<WordLevelModel>(view);
  unsupported("{}: unknown model type \"{}\"", view.where(), type);
}

}  // namespace edgewise::tok
