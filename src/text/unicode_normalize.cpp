#include "text/unicode_normalize.h"

#include <utf8proc.h>

#include <vector>

#include "base/error.h"
#include "text/utf8.h"

namespace edgewise::tok {
namespace {

utf8proc_option_t options_of(NormalForm form) {
  int options = UTF8PROC_STABLE;
  options |= form == NormalForm::kNfc || form == NormalForm::kNfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == NormalForm::kNfkc || form == NormalForm::kNfkd) options |= UTF8PROC_COMPAT;
  return static_cast<utf8proc_option_t>(options);
}

// Every character below this is unaffected by the form, and none of them combines with what precedes it.
char32_t inert_below(NormalForm form) { return form == NormalForm::kNfc ? 0x300 : 0x80; }

void append_normalized(std::string& out, std::string_view part, NormalForm form,
                       std::vector<utf8proc_int32_t>& buffer) {
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(part.data());
  const auto size = static_cast<utf8proc_ssize_t>(part.size());
  const utf8proc_option_t options = options_of(form);
  buffer.resize(part.size() + 64);
  auto needed = utf8proc_decompose(bytes, size, buffer.data(), buffer.size(), options);
  if (needed > static_cast<utf8proc_ssize_t>(buffer.size())) {
    buffer.resize(needed);
    needed = utf8proc_decompose(bytes, size, buffer.data(), buffer.size(), options);
  }
  if (needed >= 0) needed = utf8proc_normalize_utf32(buffer.data(), needed, options);
  check_internal(needed >= 0, "utf8proc refused well-formed UTF-8");
  for (utf8proc_ssize_t i = 0; i < needed; ++i) append_utf8(out, static_cast<char32_t>(buffer[i]));
}

// Characters whose decomposition is newer than the Unicode version that the Hugging Face library normalizes
// by: it leaves them alone, and so must we.
bool is_frozen(char32_t c) {
  return c == 0x32FF || (c >= 0xA7F2 && c <= 0xA7F4) || c == 0xAB69 || (c >= 0x10781 && c <= 0x107BA) || c == 0x11938 ||
         (c >= 0x1E030 && c <= 0x1E06D) || c == 0x1F16C || (c >= 0x1FBF0 && c <= 0x1FBF9);
}

void append_thawed(std::string& out, std::string_view part, NormalForm form, std::vector<utf8proc_int32_t>& buffer) {
  size_t done = 0;
  for (size_t pos = 0; pos < part.size();) {
    const size_t start = pos;
    if (!is_frozen(next_char(part, pos))) continue;
    append_normalized(out, part.substr(done, start - done), form, buffer);
    out += part.substr(start, pos - start);
    done = pos;
  }
  append_normalized(out, part.substr(done), form, buffer);
}

}  // namespace

bool surely_normalized(std::string_view text, NormalForm form) {
  // U+0300 starts with the byte CC, U+0080 with C2.
  const unsigned char limit = form == NormalForm::kNfc ? 0xCC : 0x80;
  for (const char byte : text) {
    if (static_cast<unsigned char>(byte) >= limit) return false;
  }
  return true;
}

// Only stretches with characters that can change go through utf8proc; each with the character before it,
// which may take part in a composition.
void normalize_unicode(std::string& text, NormalForm form) {
  if (surely_normalized(text, form)) return;
  const char32_t limit = inert_below(form);
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  std::vector<utf8proc_int32_t> buffer;
  size_t copied = 0;  // text before this is done
  for (size_t pos = 0; pos < text.size();) {
    const size_t here = pos;
    if (next_char(text, pos) < limit) continue;
    const size_t start = here > copied ? previous_char_start(text, here) : here;
    size_t end = pos;
    while (pos < text.size()) {
      if (next_char(text, pos) < limit) break;
      end = pos;
    }
    out.append(text, copied, start - copied);
    append_thawed(out, std::string_view(text).substr(start, end - start), form, buffer);
    copied = end;
    pos = end;
  }
  out.append(text, copied, text.size() - copied);
  text = std::move(out);
}

void append_lower(std::string& out, char32_t c) {
  if (c == 0x130) {  // the one character whose lower case is two: i and a combining dot
    out += "i\xCC\x87";
    return;
  }
  append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
}

}  // namespace edgewise::tok
