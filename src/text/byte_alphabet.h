// GPT-2's alphabet: one printable character for each byte, so that any bytes can be written as a token.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace edgewise::tok {

// The character that stands for `byte`, in UTF-8.
std::string_view byte_symbol(unsigned char byte);
// Appends the symbols of all bytes.
void append_byte_symbols(std::string& out, std::string_view bytes);
// Appends the bytes that the symbols of `token` stand for; false, and nothing appended, when one is no
// symbol.
bool append_symbol_bytes(std::string& out, std::string_view token);

}  // namespace edgewise::tok
