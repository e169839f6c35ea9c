#include "grammar/token_trie.h"

#include <algorithm>

#include "base/error.h"

namespace edgewise::grammar {
namespace {

constexpr int32_t kMaxVocabulary = 1 << 24;
constexpr size_t kMaxTokenBytes = 65535;  // depths have 16 bits

}  // namespace

TokenTrie::TokenTrie(const Tokenizer& tokenizer, int32_t vocabulary_size, std::span<const int32_t> end_tokens,
                     std::span<const int32_t> kept) {
  if (vocabulary_size <= 0 || vocabulary_size > kMaxVocabulary) {
    usage_error("vocabulary size: expected 1 to {}, found {}", kMaxVocabulary, vocabulary_size);
  }
  offsets_.reserve(static_cast<size_t>(vocabulary_size) + 1);
  std::vector<int32_t> sorted;
  for (int32_t token = 0; token < vocabulary_size; ++token) {
    offsets_.push_back(static_cast<uint32_t>(bytes_.size()));
    if (std::ranges::count(end_tokens, token) > 0) continue;
    if (!kept.empty() && !std::ranges::binary_search(kept, token)) continue;
    const auto bytes = tokenizer.token_bytes(token);
    if (!bytes || bytes->empty() || bytes->size() > kMaxTokenBytes) continue;
    bytes_ += *bytes;
    sorted.push_back(token);
  }
  offsets_.push_back(static_cast<uint32_t>(bytes_.size()));
  std::ranges::sort(sorted, [&](int32_t left, int32_t right) {
    const int order = token_bytes(left).compare(token_bytes(right));
    return order != 0 ? order < 0 : left < right;
  });

  std::vector<uint32_t> path;  // nodes from the first byte to the last token's end
  std::string_view previous;
  for (const int32_t token : sorted) {
    const std::string_view bytes = token_bytes(token);
    if (bytes == previous) {
      duplicates_.emplace_back(nodes_[path.back()].token, token);
      continue;
    }
    const size_t shared = std::ranges::mismatch(bytes, previous).in1 - bytes.begin();
    for (; path.size() > shared; path.pop_back())
      nodes_[path.back()].subtree_end = static_cast<uint32_t>(nodes_.size());
    for (size_t i = shared; i < bytes.size(); ++i) {
      path.push_back(static_cast<uint32_t>(nodes_.size()));
      nodes_.push_back({-1, 0, static_cast<uint16_t>(i + 1), static_cast<uint8_t>(bytes[i])});
    }
    nodes_.back().token = token;
    max_depth_ = std::max(max_depth_, bytes.size());
    previous = bytes;
  }
  for (const uint32_t node : path) nodes_[node].subtree_end = static_cast<uint32_t>(nodes_.size());
  collect_long_tokens();
}

void TokenTrie::collect_long_tokens() {
  std::vector<bool> leads(nodes_.size());  // to a long token
  for (size_t i = nodes_.size(); i > 0; --i) {
    const Node& node = nodes_[i - 1];
    leads[i - 1] = leads[i - 1] || (node.token >= 0 && node.depth > kLong);
    if (!leads[i - 1] || node.depth == 1) continue;
    size_t parent = i - 2;  // the nearest node before that is one byte shorter
    while (nodes_[parent].depth >= node.depth) --parent;
    leads[parent] = true;
  }
  std::vector<uint32_t> position(nodes_.size() + 1);  // of each node, or of the first one behind it
  for (size_t i = 0; i < nodes_.size(); ++i) position[i + 1] = position[i] + (leads[i] ? 1 : 0);
  for (uint32_t i = 0; i < nodes_.size(); ++i) {
    if (!leads[i]) continue;
    Node node = nodes_[i];
    node.subtree_end = position[node.subtree_end];
    if (node.depth <= kLong) node.token = -1;
    long_nodes_.push_back({node, i});
  }
}

std::string_view TokenTrie::token_bytes(int32_t token) const {
  if (token < 0 || token >= vocabulary_size()) return {};
  return std::string_view(bytes_).substr(offsets_[token], offsets_[token + 1] - offsets_[token]);
}

}  // namespace edgewise::grammar
