// Regular expressions over UTF-8, compiled by PCRE2.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace edgewise::tok {

struct Match {
  size_t begin;
  size_t end;
  bool matched;  // false for the text between two matches
};

class Regex {
 public:
  // `pattern` is in Oniguruma's dialect. Throws Error(kBadFile) or Error(kUnsupported), naming `where`.
  Regex(std::string_view pattern, std::string where);
  ~Regex();
  Regex(Regex&&) noexcept;

  // The first match at or after `from`; false when there is none. `text` is well-formed UTF-8. Throws
  // Error(kUnsupported) when the match exceeds PCRE2's limits.
  bool find(std::string_view text, size_t from, Match& match) const;

  // Appends all matches and the text between them, which together cover `text`.
  void find_all(std::string_view text, std::vector<Match>& out) const;

 private:
  struct Code;
  std::unique_ptr<const Code> code_;
};

}  // namespace edgewise::tok
