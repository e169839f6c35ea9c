#include "text/byte_alphabet.h"

#include <array>

#include "text/utf8.h"

namespace edgewise::tok {
namespace {

constexpr char32_t kLastSymbol = 0x143;

struct Alphabet {
  std::array<std::string, 256> symbols;
  std::array<int16_t, kLastSymbol + 1> bytes;

  Alphabet() {
    bytes.fill(-1);
    char32_t next = 0x100;  // bytes without a printable character of their own take these in order
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
      const char32_t symbol = printable ? byte : next++;
      append_utf8(symbols[byte], symbol);
      bytes[symbol] = static_cast<int16_t>(byte);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet instance;
  return instance;
}

}  // namespace

std::string_view byte_symbol(unsigned char byte) { return alphabet().symbols[byte]; }

void append_byte_symbols(std::string& out, std::string_view bytes) {
  const Alphabet& table = alphabet();
  for (const char byte : bytes) out += table.symbols[static_cast<unsigned char>(byte)];
}

bool append_symbol_bytes(std::string& out, std::string_view token) {
  const Alphabet& table = alphabet();
  const size_t start = out.size();
  for (size_t pos = 0; pos < token.size();) {
    const char32_t symbol = next_char(token, pos);
    if (symbol > kLastSymbol || table.bytes[symbol] < 0) {
      out.resize(start);
      return false;
    }
    out.push_back(static_cast<char>(table.bytes[symbol]));
  }
  return true;
}

}  // namespace edgewise::tok
