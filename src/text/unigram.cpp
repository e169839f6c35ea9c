#include "text/unigram.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "text/utf8.h"

namespace edgewise::tok {
namespace {

constexpr double kUnknownPenalty = 10.0;
constexpr size_t kUnreached = ~size_t{0};

}  // namespace

UnigramModel::UnigramModel(const JsonView& view) : where_(view.where()) {
  if (!view.has("vocab") || !view.value().at("vocab").is_array()) view.reject("vocab", "an array of pieces");
  const Json& pieces = view.value().at("vocab");
  double lowest = std::numeric_limits<double>::infinity();
  for (const Json& piece : pieces) {
    if (!piece.is_array() || piece.size() != 2 || !piece[0].is_string() || !piece[1].is_number()) {
      bad_file("{}: vocab[{}]: expected [piece, score]", where_, scores_.size());
    }
    const auto& token = piece[0].get_ref<const std::string&>();
    const auto id = static_cast<int32_t>(scores_.size());
    vocab_.add(token, id);
    if (!token.empty()) trie_.add(token, id);
    scores_.push_back(piece[1].get<double>());
    lowest = std::min(lowest, scores_.back());
  }
  unknown_score_ = lowest - kUnknownPenalty;
  byte_fallback_ = view.boolean("byte_fallback", false);
  if (view.has("unk_id")) {
    unknown_ = read_id(view.value().at("unk_id"), where_ + ": unk_id");
    if (static_cast<size_t>(unknown_) >= scores_.size()) view.reject("unk_id", "an index into the vocabulary");
  }
  for (int byte = 0; byte < 256; ++byte) {
    fallback_ids_[byte] = vocab_.find(fmt::format("<0x{:02X}>", byte)).value_or(-1);
  }
}

int32_t UnigramModel::unknown_id() const {
  if (unknown_ < 0) bad_file("{}: unk_id is missing, but the text has characters outside the vocabulary", where_);
  return unknown_;
}

void UnigramModel::encode(std::string_view word, std::vector<int32_t>& ids, ModelScratch& scratch) const {
  encode_cached(word, ids, scratch, [&](std::string_view text) { compute(text, ids, scratch); });
}

// Ties go to the path found first, which is the one whose last token starts earlier.
void UnigramModel::find_best_path(std::string_view word, std::vector<ModelScratch::Step>& steps) const {
  steps.assign(word.size() + 1, {0.0, kUnreached, 0});
  const auto improves = [&](size_t end, double score) {
    return steps[end].start == kUnreached || score > steps[end].score;
  };
  for (size_t start = 0; start < word.size();) {
    const double score = steps[start].score;
    const size_t char_end = start + utf8_length(static_cast<unsigned char>(word[start]));
    bool single = false;  // a token covers just this character
    uint32_t node = ByteTrie::kRoot;
    for (size_t end = start; end < word.size();) {
      node = trie_.step(node, static_cast<unsigned char>(word[end++]));
      if (node == ByteTrie::kNone) break;
      const int32_t id = trie_.value(node);
      if (id < 0) continue;
      if (improves(end, scores_[id] + score)) steps[end] = {scores_[id] + score, start, id};
      single |= end == char_end;
    }
    if (!single && improves(char_end, unknown_score_ + score)) {
      steps[char_end] = {unknown_score_ + score, start, unknown_id()};
    }
    start = char_end;
  }
}

void UnigramModel::append_unknown(std::string_view text, std::vector<int32_t>& ids) const {
  if (const auto id = vocab_.find(text)) return ids.push_back(*id);
  const auto missing = [&](char byte) { return fallback_ids_[static_cast<unsigned char>(byte)] < 0; };
  if (byte_fallback_ && std::none_of(text.begin(), text.end(), missing)) {
    for (const char byte : text) ids.push_back(fallback_ids_[static_cast<unsigned char>(byte)]);
    return;
  }
  ids.push_back(unknown_id());
}

void UnigramModel::compute(std::string_view word, std::vector<int32_t>& ids, ModelScratch& scratch) const {
  auto& steps = scratch.steps;
  find_best_path(word, steps);
  // Turns the links around, so that the path can be walked forwards: steps[start].start becomes its end.
  size_t end = word.size();
  size_t next = kUnreached;
  while (end > 0) {
    const size_t start = steps[end].start;
    steps[end].start = next;
    next = end;
    end = start;
  }
  for (size_t start = 0; start < word.size();) {
    size_t stop = next;
    int32_t id = steps[stop].id;
    next = steps[stop].start;
    if (id == unknown_) {  // neighbouring unknown characters are one token
      while (next != kUnreached && steps[next].id == unknown_) {
        stop = next;
        next = steps[stop].start;
      }
      append_unknown(word.substr(start, stop - start), ids);
    } else {
      ids.push_back(id);
    }
    start = stop;
  }
}

}  // namespace edgewise::tok
