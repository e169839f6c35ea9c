// The scripts of characters, as SentencePiece cuts text by them.
#pragma once

namespace edgewise::tok {

constexpr int kAnyScript = 0;  // goes with whatever script surrounds it

// A number for the script of `c`; Hiragana, Katakana and Han count as one, the space and unassigned
// characters as kAnyScript.
int sentencepiece_script(char32_t c);

}  // namespace edgewise::tok
