// What Split and Replace look for: a literal string or a regular expression.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "formats/json.h"
#include "text/regex.h"
#include "text/split_scanner.h"

namespace edgewise::tok {

class Pattern {
 public:
  // A string; the empty one matches between all characters.
  static Pattern literal(std::string text);
  // `where` names the field in errors.
  static Pattern regex(std::string_view expression, const std::string& where);
  // Reads {"String": ...} or {"Regex": ...} from the field "pattern".
  static Pattern read(const JsonView& owner);

  // Appends all matches and the text between them.
  void find_all(std::string_view text, std::vector<Match>& out) const;

  // Set when every match can be found by a scanner, without gaps between them.
  SplitScanner scanner() const { return scanner_; }
  // The string to find; nullptr for a regular expression.
  const std::string* literal_text() const { return regex_ || scanner_ != nullptr ? nullptr : &literal_; }

 private:
  Pattern() = default;
  std::string literal_;
  std::optional<Regex> regex_;
  SplitScanner scanner_ = nullptr;
};

}  // namespace edgewise::tok
