#include "grammar/engine.h"

#include <algorithm>

#include "base/error.h"

namespace edgewise::grammar {

Engine::Engine(const Vocabulary& vocabulary, std::unique_ptr<RegexPool> pool, Graph graph)
    : vocabulary_(vocabulary),
      pool_(std::move(pool)),
      graph_(std::move(graph)),
      parser_(*pool_, graph_),
      masks_(*pool_, parser_, vocabulary_.trie, vocabulary_.strings) {
  pool_->start_work();
  if (!graph_.prune(*pool_)) usage_error("no text satisfies this grammar");
  start_ = parser_.start();
}

// Rows are only dropped between calls: within one they are pointed to.
void Engine::make_room() {
  pool_->start_work();
  if (pool_->has_many_rows()) pool_->drop_rows();
  if (parser_.has_many_rows()) parser_.drop_rows();
}

bool Engine::fill_mask(Position position, std::span<uint64_t> bits) {
  const std::lock_guard lock(mutex_);
  make_room();
  if (position == kEnded) {
    std::ranges::fill(bits, 0);
    return false;
  }
  masks_.fill(position, bits);
  if (parser_.is_complete(position)) {
    for (const int32_t token : vocabulary_.end_tokens) set_bit(bits, token);
  }
  return std::ranges::any_of(bits, [](uint64_t word) { return word != 0; });
}

Position Engine::accept(Position position, int32_t token) {
  const std::lock_guard lock(mutex_);
  if (position == kEnded) return Parser::kNowhere;
  make_room();
  if (std::ranges::count(vocabulary_.end_tokens, token) > 0) {
    return parser_.is_complete(position) ? kEnded : Parser::kNowhere;
  }
  const std::string_view bytes = vocabulary_.trie->token_bytes(token);
  if (bytes.empty()) return Parser::kNowhere;
  for (const char byte : bytes) {
    position = parser_.step(position, static_cast<uint8_t>(byte));
    if (position == Parser::kNowhere) break;
  }
  return position;
}

bool Engine::is_complete(Position position) {
  const std::lock_guard lock(mutex_);
  return position == kEnded || parser_.is_complete(position);
}

bool Engine::is_final(Position position) {
  const std::lock_guard lock(mutex_);
  return position == kEnded || (parser_.is_complete(position) && parser_.next_bytes(position).empty());
}

std::string Engine::forced_bytes(Position position, size_t limit) {
  const std::lock_guard lock(mutex_);
  make_room();
  std::string out;
  while (position != kEnded && out.size() < limit && !parser_.is_complete(position)) {
    const ByteSet next = parser_.next_bytes(position);
    if (next.count() != 1) break;
    out += static_cast<char>(next.first());
    position = parser_.step(position, next.first());
  }
  return out;
}

}  // namespace edgewise::grammar
