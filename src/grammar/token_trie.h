// The bytes of all tokens as a tree, laid out in depth-first order so that a walk is one pass over memory that skips
// the subtrees it has no use for. Built once for a tokenizer.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/tokenizer.h"

namespace edgewise::grammar {

class TokenTrie {
 public:
  struct Node {
    int32_t token;         // that ends here; -1 for none
    uint32_t subtree_end;  // index behind the node's descendants
    uint16_t depth;        // bytes from the root to here
    uint8_t byte;          // the last of them
  };

  // Tokens at or above `vocabulary_size`, special ones, those without bytes, `end_tokens`, and those not among `kept`
  // (ascending; empty: all) are left out. Throws Error(kUnsupported) as Tokenizer::token_bytes does.
  TokenTrie(const Tokenizer& tokenizer, int32_t vocabulary_size, std::span<const int32_t> end_tokens,
            std::span<const int32_t> kept);

  // Without a root: the first bytes have depth 1.
  std::span<const Node> nodes() const { return nodes_; }

  // The few tokens of more than kLong bytes once more, as a tree of their own without the others; `index` is the node's
  // in nodes().
  static constexpr uint16_t kLong = 16;
  struct LongNode {
    Node node;
    uint32_t index;
  };
  std::span<const LongNode> long_nodes() const { return long_nodes_; }
  // Pairs of a token in the tree and another one with the same bytes.
  std::span<const std::pair<int32_t, int32_t>> duplicates() const { return duplicates_; }
  std::string_view token_bytes(int32_t token) const;  // empty for what was left out
  int32_t vocabulary_size() const { return static_cast<int32_t>(offsets_.size()) - 1; }
  size_t mask_words() const { return (static_cast<size_t>(vocabulary_size()) + 63) / 64; }
  size_t max_depth() const { return max_depth_; }

 private:
  void collect_long_tokens();

  std::string bytes_;  // of all tokens, one behind the other
  std::vector<uint32_t> offsets_;
  std::vector<Node> nodes_;
  std::vector<LongNode> long_nodes_;
  std::vector<std::pair<int32_t, int32_t>> duplicates_;
  size_t max_depth_ = 0;
};

}  // namespace edgewise::grammar
