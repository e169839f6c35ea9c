#include "text/byte_trie.h"

namespace edgewise::tok {

void ByteTrie::add(std::string_view key, int32_t value) {
  uint32_t node = kRoot;
  for (const char c : key) {
    const auto byte = static_cast<unsigned char>(c);
    uint32_t child = step(node, byte);
    if (child == kNone) {
      child = static_cast<uint32_t>(values_.size());
      values_.push_back(-1);
      if (node == kRoot) {
        first_[byte] = child;
      } else {
        edges_.set(uint64_t{node} << 8 | byte, child);
      }
    }
    node = child;
  }
  values_[node] = value;
}

uint32_t ByteTrie::walk(uint32_t node, std::string_view bytes) const {
  for (const char byte : bytes) {
    if (node == kNone) break;
    node = step(node, static_cast<unsigned char>(byte));
  }
  return node;
}

}  // namespace edgewise::tok
