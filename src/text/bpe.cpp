#include "text/bpe.h"

#include <algorithm>

#include "base/error.h"
#include "text/byte_alphabet.h"
#include "text/utf8.h"

namespace edgewise::tok {
namespace {

constexpr uint64_t kNoMerge = ~uint64_t{0};
constexpr size_t kShortWord = 40;  // symbols up to which scanning for the best merge beats a heap

uint32_t rank_of(uint64_t merge) { return static_cast<uint32_t>(merge >> 32); }
int32_t new_id_of(uint64_t merge) { return static_cast<int32_t>(merge & 0xFFFFFFFFu); }
uint64_t join_key(char32_t left, char32_t right) { return uint64_t{left} << 32 | right; }

char32_t last_char(std::string_view text) {
  size_t pos = previous_char_start(text, text.size());
  return next_char(text, pos);
}

char32_t first_char(std::string_view text) {
  size_t pos = 0;
  return next_char(text, pos);
}

}  // namespace

BpeModel::BpeModel(const JsonView& view) : where_(view.where()) {
  read_options(view);
  vocab_ = Vocab::read(view, "vocab");
  splittable_ = prefix_.empty() && suffix_.empty() && vocab_.ids_unique();
  ascii_joins_.resize(128 * 128);
  read_merges(view);
  index_characters();
}

void BpeModel::read_options(const JsonView& view) {
  if (view.number("dropout", 0.0) != 0.0) {
    unsupported("{}: dropout: Edgewise tokenizes without it; set it to null", view.where());
  }
  if (view.has("unk_token")) unknown_ = view.string("unk_token");
  prefix_ = view.string("continuing_subword_prefix", "");
  suffix_ = view.string("end_of_word_suffix", "");
  fuse_unknown_ = view.boolean("fuse_unk", false);
  byte_fallback_ = view.boolean("byte_fallback", false);
  ignore_merges_ = view.boolean("ignore_merges", false);
}

void BpeModel::read_merges(const JsonView& view) {
  if (!view.has("merges") || !view.value().at("merges").is_array()) view.reject("merges", "an array of merges");
  const Json& merges = view.value().at("merges");
  merges_.reserve(merges.size());
  const std::string where = view.where() + ": merges";
  uint32_t rank = 0;
  for (const Json& item : merges) {
    if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
      add_merge(item[0].get_ref<const std::string&>(), item[1].get_ref<const std::string&>(), rank++, where);
      continue;
    }
    if (!item.is_string()) bad_file("{}: merge {}: expected \"a b\" or [\"a\", \"b\"]", where, rank);
    const std::string_view line = item.get_ref<const std::string&>();
    if (line.starts_with("#version")) continue;
    const size_t space = line.find(' ');
    if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
      bad_file("{}: merge {}: expected two tokens and one space, found \"{}\"", where, rank, line.substr(0, 60));
    }
    add_merge(line.substr(0, space), line.substr(space + 1), rank++, where);
  }
}

void BpeModel::add_merge(std::string_view left, std::string_view right, uint32_t rank, const std::string& where) {
  const auto id_of = [&](std::string_view token) {
    const auto id = vocab_.find(token);
    if (!id) bad_file("{}: merge {}: \"{}\" is not in the vocabulary", where, rank, token.substr(0, 60));
    return *id;
  };
  const int32_t left_id = id_of(left);
  const int32_t right_id = id_of(right);
  if (right.size() < prefix_.size()) {
    bad_file("{}: merge {}: \"{}\" is shorter than continuing_subword_prefix", where, rank, right);
  }
  std::string joined(left);
  joined += right.substr(prefix_.size());
  const int32_t new_id = id_of(joined);
  merges_.set(uint64_t{static_cast<uint32_t>(left_id)} << 32 | static_cast<uint32_t>(right_id),
              uint64_t{rank} << 32 | static_cast<uint32_t>(new_id));
  if (left.empty() || right.empty()) splittable_ = false;
  if (!splittable_) return;
  const char32_t before = last_char(left);
  const char32_t after = first_char(right);
  if (before < 128 && after < 128) {
    ascii_joins_[before * 128 + after] = true;
  } else {
    joins_.set(join_key(before, after), 1);
  }
}

void BpeModel::index_characters() {
  ascii_ids_.fill(-1);
  fallback_ids_.fill(-1);
  byte_ids_.fill(-1);
  for (const auto& [token, id] : vocab_.entries()) {
    if (token.empty() || utf8_length(static_cast<unsigned char>(token[0])) != token.size()) continue;
    const char32_t c = first_char(token);
    if (c < 128) {
      ascii_ids_[c] = id;
    } else {
      char_ids_.set(c, static_cast<uint32_t>(id));
    }
  }
  for (int byte = 0; byte < 256; ++byte) {
    fallback_ids_[byte] = vocab_.find(fmt::format("<0x{:02X}>", byte)).value_or(-1);
    byte_ids_[byte] = vocab_.find(byte_symbol(static_cast<unsigned char>(byte))).value_or(-1);
  }
}

bool BpeModel::take_bytes() {
  if (!prefix_.empty() || !suffix_.empty()) return false;
  bytes_ = true;
  if (!ignore_merges_) return true;
  std::string bytes;
  for (const auto& [token, id] : vocab_.entries()) {
    bytes.clear();
    if (append_symbol_bytes(bytes, token)) byte_words_.add(bytes, id);
  }
  return true;
}

int32_t BpeModel::char_id(char32_t c) const {
  if (c < 128) return ascii_ids_[c];
  const uint64_t* id = char_ids_.find(c);
  return id == nullptr ? -1 : static_cast<int32_t>(*id);
}

bool BpeModel::joined(char32_t left, char32_t right) const {
  if (left < 128 && right < 128) return ascii_joins_[left * 128 + right];
  return joins_.find(join_key(left, right)) != nullptr;
}

std::optional<int32_t> BpeModel::whole_word(std::string_view word) const {
  const Vocab& vocab = bytes_ ? byte_words_ : vocab_;
  if (word.size() > vocab.longest()) return std::nullopt;
  return vocab.find(word);
}

void BpeModel::encode(std::string_view word, std::vector<int32_t>& ids, ModelScratch& scratch) const {
  if (bytes_) {
    encode_cached(word, ids, scratch, [&](std::string_view part) {
      const auto id = ignore_merges_ ? whole_word(part) : std::nullopt;
      if (id) return ids.push_back(*id);
      encode_part(part, ids, scratch);
    });
    return;
  }
  if (ignore_merges_) {
    if (const auto id = whole_word(word)) return ids.push_back(*id);
  }
  encode_split(word, ids, scratch);
}

// Cuts the word between characters that no merge joins. Both must be in the vocabulary: runs of unknown
// characters may be fused.
void BpeModel::encode_split(std::string_view word, std::vector<int32_t>& ids, ModelScratch& scratch) const {
  const auto encode_one = [&](std::string_view part) {
    encode_cached(part, ids, scratch, [&](std::string_view text) { encode_part(text, ids, scratch); });
  };
  if (!splittable_) return encode_one(word);
  size_t start = 0;
  size_t pos = 0;
  char32_t previous = next_char(word, pos);
  bool previous_known = char_id(previous) >= 0;
  while (pos < word.size()) {
    const size_t here = pos;
    const char32_t c = next_char(word, pos);
    const bool known = char_id(c) >= 0;
    if (known && previous_known && !joined(previous, c)) {
      encode_one(word.substr(start, here - start));
      start = here;
    }
    previous = c;
    previous_known = known;
  }
  encode_one(word.substr(start));
}

void BpeModel::encode_part(std::string_view word, std::vector<int32_t>& ids, ModelScratch& scratch) const {
  std::vector<int32_t>& symbols = scratch.ids;
  symbols.clear();
  if (bytes_) {
    read_byte_symbols(word, symbols);
  } else {
    read_symbols(word, symbols, scratch.text);
  }
  if (symbols.size() <= kShortWord) {
    merge_short(symbols, scratch.merges);
  } else {
    merge_long(symbols, scratch);
  }
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

int32_t BpeModel::unknown_id() const {
  const auto id = vocab_.find(*unknown_);
  if (!id) bad_file("{}: unk_token: \"{}\" is not in the vocabulary", where_, *unknown_);
  return *id;
}

bool BpeModel::append_fallback(std::string_view character, std::vector<int32_t>& symbols) const {
  for (const char byte : character) {
    if (fallback_ids_[static_cast<unsigned char>(byte)] < 0) return false;
  }
  for (const char byte : character) symbols.push_back(fallback_ids_[static_cast<unsigned char>(byte)]);
  return true;
}

void BpeModel::read_symbols(std::string_view word, std::vector<int32_t>& symbols, std::string& text) const {
  int32_t pending = -1;  // an unknown token that further unknown characters may still fuse with
  for (size_t pos = 0; pos < word.size();) {
    const size_t start = pos;
    const char32_t c = next_char(word, pos);
    std::string_view character = word.substr(start, pos - start);
    const bool decorated = (start > 0 && !prefix_.empty()) || (pos == word.size() && !suffix_.empty());
    int32_t id = -1;
    if (decorated) {
      text.clear();
      if (start > 0) text += prefix_;
      text += character;
      if (pos == word.size()) text += suffix_;
      character = text;
      id = vocab_.find(character).value_or(-1);
    } else {
      id = char_id(c);
    }
    if (id >= 0) {
      if (pending >= 0) symbols.push_back(pending);
      pending = -1;
      symbols.push_back(id);
      continue;
    }
    if (byte_fallback_ && append_fallback(character, symbols)) continue;
    if (!unknown_) continue;
    if (pending >= 0 && !fuse_unknown_) symbols.push_back(pending);
    if (pending < 0 || !fuse_unknown_) pending = unknown_id();
  }
  if (pending >= 0) symbols.push_back(pending);
}

void BpeModel::read_byte_symbols(std::string_view word, std::vector<int32_t>& symbols) const {
  int32_t pending = -1;
  for (const char c : word) {
    const auto byte = static_cast<unsigned char>(c);
    const int32_t id = byte_ids_[byte];
    if (id >= 0) {
      if (pending >= 0) symbols.push_back(pending);
      pending = -1;
      symbols.push_back(id);
      continue;
    }
    if (byte_fallback_ && append_fallback(byte_symbol(byte), symbols)) continue;
    if (!unknown_) continue;
    if (pending >= 0 && !fuse_unknown_) symbols.push_back(pending);
    if (pending < 0 || !fuse_unknown_) pending = unknown_id();
  }
  if (pending >= 0) symbols.push_back(pending);
}

// Repeatedly applies the merge of the lowest rank, the leftmost of equals.
void BpeModel::merge_short(std::vector<int32_t>& symbols, std::vector<uint64_t>& merges) const {
  size_t count = symbols.size();
  if (count < 2) return;
  const auto merge_at = [&](size_t i) {
    const uint64_t* merge = find_merge(symbols[i], symbols[i + 1]);
    return merge == nullptr ? kNoMerge : *merge;
  };
  merges.resize(count);
  for (size_t i = 0; i + 1 < count; ++i) merges[i] = merge_at(i);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (rank_of(merges[i]) < rank_of(merges[best])) best = i;
    }
    if (merges[best] == kNoMerge) break;
    symbols[best] = new_id_of(merges[best]);
    --count;
    for (size_t i = best + 1; i < count; ++i) {
      symbols[i] = symbols[i + 1];
      merges[i] = merges[i + 1];
    }
    if (best > 0) merges[best - 1] = merge_at(best - 1);
    if (best + 1 < count) {
      merges[best] = merge_at(best);
    } else {
      merges[best] = kNoMerge;
    }
  }
  symbols.resize(count);
}

// The same with a heap, for long words.
void BpeModel::merge_long(std::vector<int32_t>& symbols, ModelScratch& scratch) const {
  using Candidate = ModelScratch::Candidate;
  auto& list = scratch.symbols;
  auto& heap = scratch.heap;
  const auto later = [](const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  };
  const auto consider = [&](int32_t left, int32_t right) {
    const uint64_t* merge = find_merge(list[left].id, list[right].id);
    if (merge == nullptr) return false;
    heap.push_back({rank_of(*merge), static_cast<uint32_t>(left), new_id_of(*merge)});
    return true;
  };
  const auto count = static_cast<int32_t>(symbols.size());
  list.clear();
  heap.clear();
  for (int32_t i = 0; i < count; ++i) list.push_back({symbols[i], i - 1, i + 1 < count ? i + 1 : -1, false});
  for (int32_t i = 0; i + 1 < count; ++i) consider(i, i + 1);
  std::make_heap(heap.begin(), heap.end(), later);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Candidate top = heap.back();
    heap.pop_back();
    auto& left = list[top.position];
    if (left.removed || left.next < 0) continue;
    auto& right = list[left.next];
    const uint64_t* merge = find_merge(left.id, right.id);
    if (merge == nullptr || new_id_of(*merge) != top.new_id) continue;  // an outdated entry
    left.id = top.new_id;
    left.next = right.next;
    right.removed = true;
    const auto position = static_cast<int32_t>(top.position);
    if (left.next >= 0) list[left.next].previous = position;
    if (left.previous >= 0 && consider(left.previous, position)) std::push_heap(heap.begin(), heap.end(), later);
    if (left.next >= 0 && consider(position, left.next)) std::push_heap(heap.begin(), heap.end(), later);
  }
  symbols.clear();
  for (const auto& symbol : list) {
    if (!symbol.removed) symbols.push_back(symbol.id);
  }
}

}  // namespace edgewise::tok
