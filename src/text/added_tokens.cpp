#include "text/added_tokens.h"

#include <algorithm>

#include "base/error.h"
#include "text/char_class.h"
#include "text/utf8.h"

namespace edgewise::tok {
namespace {

// Longer tokens would make the search, a walk from every position, slow.
constexpr size_t kMaxTokenBytes = 4096;

bool ends_with_word(std::string_view text) {
  if (text.empty()) return false;
  size_t pos = previous_char_start(text, text.size());
  return is_word(next_char(text, pos));
}

bool starts_with_word(std::string_view text) {
  size_t pos = 0;
  return !text.empty() && is_word(next_char(text, pos));
}

size_t skip_space(std::string_view text, size_t pos) {
  for (size_t next = pos; next < text.size() && is_space(next_char(text, next));) pos = next;
  return pos;
}

size_t skip_space_back(std::string_view text, size_t pos) {
  while (pos > 0) {
    const size_t start = previous_char_start(text, pos);
    size_t next = start;
    if (!is_space(next_char(text, next))) break;
    pos = start;
  }
  return pos;
}

struct Found {
  size_t begin;
  size_t end;
  int32_t id = -1;
};

// The leftmost added token at or after `from`, and the longest of those that start there.
Found find_next(std::string_view text, size_t from, const ByteTrie& trie) {
  for (size_t begin = from; begin < text.size(); ++begin) {
    Found found{begin, begin};
    uint32_t node = trie.step(ByteTrie::kRoot, static_cast<unsigned char>(text[begin]));
    for (size_t end = begin + 1; node != ByteTrie::kNone; ++end) {
      if (trie.value(node) >= 0) found = {begin, end, trie.value(node)};
      if (end == text.size()) break;
      node = trie.step(node, static_cast<unsigned char>(text[end]));
    }
    if (found.id >= 0) return found;
  }
  return {text.size(), text.size()};
}

}  // namespace

AddedTokens::AddedTokens(const JsonView& view, const TokenModel& model, const Normalizer* normalizer) {
  if (!view.has("added_tokens")) return;
  const Json& list = view.value().at("added_tokens");
  if (!list.is_array()) view.reject("added_tokens", "an array");
  auto next_id = static_cast<int32_t>(model.vocab().size());
  for (size_t i = 0; i < list.size(); ++i) {
    read_token({list[i], fmt::format("{}: added_tokens[{}]", view.where(), i)}, model, normalizer, next_id);
  }
  // By id, so that of two tokens that normalize to the same text the same one always wins.
  std::vector<const AddedToken*> sorted;
  for (const auto& [id, token] : tokens_) sorted.push_back(&token);
  std::sort(sorted.begin(), sorted.end(), [](auto* a, auto* b) { return a->id > b->id; });
  for (const AddedToken* token : sorted) {
    if (!token->text.empty()) (token->normalized ? normalized_ : raw_).add(token->text, token->id);
  }
}

void AddedTokens::read_token(const JsonView& view, const TokenModel& model, const Normalizer* normalizer,
                             int32_t& next_id) {
  AddedToken token;
  token.content = view.string("content");
  if (view.has("id")) read_id(view.value().at("id"), view.where() + ": id");
  if (token.content.empty()) return;
  token.special = view.boolean("special", false);
  token.single_word = view.boolean("single_word", false);
  token.lstrip = view.boolean("lstrip", false);
  token.rstrip = view.boolean("rstrip", false);
  token.normalized = view.boolean("normalized", !token.special);
  token.text = token.content;
  bool at_origin = true;
  if (token.normalized && normalizer != nullptr) normalizer->apply(token.text, at_origin);
  if (token.content.size() > kMaxTokenBytes || token.text.size() > kMaxTokenBytes) {
    unsupported("{}: content: the token is longer than {} bytes", view.where(), kMaxTokenBytes);
  }
  const auto known = find(token.content);
  const auto in_model = known ? known : model.vocab().find(token.content);
  token.id = in_model ? *in_model : next_id++;
  ids_[token.content] = token.id;
  if (token.special) special_.insert(token.content);
  tokens_.insert_or_assign(token.id, std::move(token));
}

void AddedTokens::split(Pieces& pieces, const ByteTrie& trie) const {
  pieces.next.clear();
  for (const Piece& piece : pieces.list) {
    if (piece.id >= 0) {
      pieces.next.push_back(piece);
    } else {
      split_piece(pieces, piece, trie);
    }
  }
  pieces.list.swap(pieces.next);
}

void AddedTokens::split_piece(Pieces& pieces, const Piece& piece, const ByteTrie& trie) const {
  const std::string_view text = pieces.text.substr(piece.begin, piece.end - piece.begin);
  const auto push_text = [&](size_t begin, size_t end) {
    if (begin >= end) return;
    pieces.next.push_back({piece.begin + begin, piece.begin + end, -1, piece.at_origin && begin == 0});
  };
  size_t covered = 0;
  for (Found found = find_next(text, 0, trie); found.id >= 0; found = find_next(text, found.end, trie)) {
    const AddedToken& token = tokens_.at(found.id);
    if (token.single_word &&
        (ends_with_word(text.substr(0, found.begin)) || starts_with_word(text.substr(found.end)))) {
      continue;
    }
    size_t begin = found.begin;
    size_t end = found.end;
    if (token.lstrip) begin = std::max(skip_space_back(text, begin), covered);
    if (token.rstrip) end = skip_space(text, end);
    push_text(covered, begin);
    pieces.next.push_back({0, 0, token.id, false});
    covered = end;
  }
  push_text(covered, text.size());
}

const AddedToken* AddedTokens::find(int32_t id) const {
  const auto it = tokens_.find(id);
  return it == tokens_.end() ? nullptr : &it->second;
}

std::optional<int32_t> AddedTokens::find(std::string_view content) const {
  const auto it = ids_.find(std::string(content));
  if (it == ids_.end()) return std::nullopt;
  return it->second;
}

bool AddedTokens::is_special_text(const std::string& text) const { return special_.contains(text); }

int32_t AddedTokens::max_id() const {
  int32_t highest = -1;
  for (const auto& [id, token] : tokens_) highest = std::max(highest, id);
  return highest;
}

}  // namespace edgewise::tok
