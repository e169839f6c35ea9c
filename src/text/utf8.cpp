#include "text/utf8.h"

#include <cstring>

namespace edgewise::tok {
namespace {

// The first continuation byte is restricted after some lead bytes, which excludes overlong forms, surrogates
// and values above U+10FFFF.
bool second_byte_ok(unsigned char lead, unsigned char second) {
  if (lead == 0xE0) return second >= 0xA0 && second <= 0xBF;
  if (lead == 0xED) return second >= 0x80 && second <= 0x9F;
  if (lead == 0xF0) return second >= 0x90 && second <= 0xBF;
  if (lead == 0xF4) return second >= 0x80 && second <= 0x8F;
  return (second & 0xC0) == 0x80;
}

struct Unit {
  size_t length;  // bytes that belong together, well formed or not
  bool valid;
  bool truncated;  // ill formed only because the input ended
};

Unit read_unit(std::string_view bytes) {
  const auto lead = static_cast<unsigned char>(bytes[0]);
  if (lead < 0x80) return {1, true, false};
  if (lead < 0xC2 || lead > 0xF4) return {1, false, false};
  const size_t need = utf8_length(lead);
  for (size_t i = 1; i < need; ++i) {
    if (i >= bytes.size()) return {i, false, true};
    const auto byte = static_cast<unsigned char>(bytes[i]);
    const bool ok = i == 1 ? second_byte_ok(lead, byte) : (byte & 0xC0) == 0x80;
    if (!ok) return {i, false, false};
  }
  return {need, true, false};
}

size_t ascii_prefix(std::string_view bytes) {
  size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + i, 8);
    if (word & 0x8080808080808080u) break;
  }
  while (i < bytes.size() && static_cast<unsigned char>(bytes[i]) < 0x80) ++i;
  return i;
}

}  // namespace

void append_utf8(std::string& out, char32_t c) {
  const auto push = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    push(c);
  } else if (c < 0x800) {
    push(0xC0 | c >> 6);
    push(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    push(0xE0 | c >> 12);
    push(0x80 | (c >> 6 & 0x3F));
    push(0x80 | (c & 0x3F));
  } else {
    push(0xF0 | c >> 18);
    push(0x80 | (c >> 12 & 0x3F));
    push(0x80 | (c >> 6 & 0x3F));
    push(0x80 | (c & 0x3F));
  }
}

size_t count_chars(std::string_view text) {
  size_t count = 0;
  for (const char byte : text) count += (static_cast<unsigned char>(byte) & 0xC0) != 0x80;
  return count;
}

size_t valid_utf8_prefix(std::string_view bytes) {
  size_t pos = 0;
  while (pos < bytes.size()) {
    pos += ascii_prefix(bytes.substr(pos));
    if (pos == bytes.size()) break;
    const Unit unit = read_unit(bytes.substr(pos));
    if (!unit.valid) break;
    pos += unit.length;
  }
  return pos;
}

size_t append_lossy(std::string& out, std::string_view bytes, bool at_end) {
  size_t pos = 0;
  while (pos < bytes.size()) {
    const size_t good = valid_utf8_prefix(bytes.substr(pos));
    out.append(bytes.substr(pos, good));
    pos += good;
    if (pos == bytes.size()) break;
    const Unit unit = read_unit(bytes.substr(pos));
    if (unit.truncated && !at_end) break;
    append_utf8(out, kReplacementCharacter);
    pos += unit.length;
  }
  return pos;
}

}  // namespace edgewise::tok
