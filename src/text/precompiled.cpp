#include "text/precompiled.h"

#include <utf8proc.h>

#include <cstring>

#include "base/error.h"
#include "text/utf8.h"

namespace edgewise::tok {
namespace {

int base64_digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

std::string decode_base64(std::string_view text, const std::string& where) {
  std::string out;
  out.reserve(text.size() / 4 * 3);
  uint32_t bits = 0;
  int count = 0;
  while (!text.empty() && text.back() == '=') text.remove_suffix(1);
  for (const char c : text) {
    const int digit = base64_digit(c);
    if (digit < 0) bad_file("{}: not valid base64", where);
    bits = bits << 6 | static_cast<uint32_t>(digit);
    count += 6;
    if (count >= 8) {
      count -= 8;
      out.push_back(static_cast<char>(bits >> count & 0xFF));
    }
  }
  return out;
}

// The bit fields of a Darts-clone unit.
bool has_leaf(uint32_t unit) { return unit >> 8 & 1; }
uint32_t leaf_value(uint32_t unit) { return unit & 0x7FFFFFFFu; }
uint32_t unit_label(uint32_t unit) { return unit & 0x800000FFu; }
size_t unit_offset(uint32_t unit) { return size_t{unit >> 10} << ((unit & 1u << 9) >> 6); }

// A longer grapheme is mapped character by character; that is how SentencePiece's rules were compiled.
constexpr size_t kMaxGraphemeBytes = 5;

}  // namespace

CharsMap::CharsMap(std::string_view base64, const std::string& where) {
  const std::string blob = decode_base64(base64, where);
  uint32_t trie_bytes = 0;
  if (blob.size() >= 4) std::memcpy(&trie_bytes, blob.data(), 4);
  if (blob.size() < 4 || trie_bytes % 4 != 0 || trie_bytes == 0 || trie_bytes > blob.size() - 4) {
    bad_file("{}: expected a trie of {} bytes, a multiple of four, found {} bytes", where, trie_bytes, blob.size());
  }
  units_.resize(trie_bytes / 4);
  std::memcpy(units_.data(), blob.data() + 4, trie_bytes);
  replacements_ = blob.substr(4 + trie_bytes);
  if (valid_utf8_prefix(replacements_) != replacements_.size()) {
    bad_file("{}: the replacement strings are not valid UTF-8", where);
  }
}

std::optional<std::string_view> CharsMap::replacement(std::string_view text) const {
  size_t node = unit_offset(units_[0]);
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte == 0) break;
    node ^= byte;
    if (node >= units_.size() || unit_label(units_[node]) != byte) break;
    const uint32_t unit = units_[node];
    node ^= unit_offset(unit);
    if (!has_leaf(unit)) continue;
    if (node >= units_.size()) break;
    const size_t start = leaf_value(units_[node]);
    if (start > replacements_.size()) break;
    // A trie that points into the middle of a character is broken: such an entry is ignored.
    if (start < replacements_.size() && (static_cast<unsigned char>(replacements_[start]) & 0xC0) == 0x80) break;
    const size_t end = std::min(replacements_.find('\0', start), replacements_.size());
    return std::string_view(replacements_).substr(start, end - start);
  }
  return std::nullopt;
}

void CharsMap::append_grapheme(std::string& out, std::string_view grapheme) const {
  if (grapheme.size() <= kMaxGraphemeBytes) {
    if (const auto with = replacement(grapheme)) {
      out += *with;
      return;
    }
  }
  for (size_t pos = 0; pos < grapheme.size();) {
    const size_t start = pos;
    next_char(grapheme, pos);
    const std::string_view character = grapheme.substr(start, pos - start);
    out += replacement(character).value_or(character);
  }
}

void CharsMap::apply(std::string& text) const {
  std::string out;
  out.reserve(text.size());
  utf8proc_int32_t state = 0;
  size_t start = 0;
  for (size_t pos = 0; pos < text.size();) {
    const char32_t here = next_char(text, pos);
    bool boundary = pos == text.size();
    if (!boundary) {
      size_t after = pos;
      const char32_t next = next_char(text, after);
      boundary = utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(here),
                                                  static_cast<utf8proc_int32_t>(next), &state);
    }
    if (!boundary) continue;
    append_grapheme(out, std::string_view(text).substr(start, pos - start));
    start = pos;
  }
  text = std::move(out);
}

}  // namespace edgewise::tok
