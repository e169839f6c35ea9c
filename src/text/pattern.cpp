#include "text/pattern.h"

namespace edgewise::tok {

Pattern Pattern::literal(std::string text) {
  Pattern pattern;
  if (text.empty()) pattern.regex_.emplace("", "an empty string pattern");
  pattern.literal_ = std::move(text);
  return pattern;
}

Pattern Pattern::regex(std::string_view expression, const std::string& where) {
  Pattern pattern;
  pattern.scanner_ = find_split_scanner(expression);
  if (pattern.scanner_ == nullptr) pattern.regex_.emplace(expression, where);
  return pattern;
}

Pattern Pattern::read(const JsonView& owner) {
  const JsonView pattern = owner.at("pattern");
  if (pattern.has("String")) return literal(pattern.string("String"));
  if (pattern.has("Regex")) return regex(pattern.string("Regex"), pattern.where());
  owner.reject("pattern", "{\"String\": ...} or {\"Regex\": ...}");
}

void Pattern::find_all(std::string_view text, std::vector<Match>& out) const {
  if (scanner_ != nullptr) {
    for (size_t pos = 0; pos < text.size();) {
      const size_t end = scanner_(text, pos);
      out.push_back({pos, end, true});
      pos = end;
    }
    return;
  }
  if (regex_) return regex_->find_all(text, out);
  size_t covered = 0;
  for (size_t at = text.find(literal_); at != std::string_view::npos; at = text.find(literal_, covered)) {
    if (at != covered) out.push_back({covered, at, false});
    covered = at + literal_.size();
    out.push_back({at, covered, true});
  }
  if (covered != text.size()) out.push_back({covered, text.size(), false});
}

}  // namespace edgewise::tok
