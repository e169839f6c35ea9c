#include "runtime/output_text.h"

#include <algorithm>

namespace edgewise {

OutputText::OutputText(const Tokenizer& tokenizer, std::vector<std::string> stop, std::vector<int32_t> shown)
    : decoder_(tokenizer, true), stop_(std::move(stop)), shown_(std::move(shown)) {
  std::erase_if(stop_, [](const std::string& s) { return s.empty(); });
}

std::string OutputText::push(int32_t token) {
  const bool shown = std::ranges::find(shown_, token) != shown_.end();
  return release(decoder_.push(token, shown), false);
}
std::string OutputText::finish() { return release(decoder_.flush(), true); }

std::string OutputText::release(std::string fresh, bool last) {
  if (stopped_) return "";
  held_ += fresh;
  size_t cut = std::string::npos;
  for (const std::string& stop : stop_) cut = std::min(cut, held_.find(stop));
  stopped_ = cut != std::string::npos;
  size_t keep = 0;
  if (!stopped_ && !last) {
    // The longest tail that could still grow into a stop string.
    for (const std::string& stop : stop_) {
      for (size_t length = std::min(stop.size() - 1, held_.size()); length > keep; --length) {
        if (held_.ends_with(std::string_view(stop).substr(0, length))) {
          keep = length;
          break;
        }
      }
    }
    // A tail never starts inside a character: stop strings are whole characters themselves.
  }
  std::string ready = held_.substr(0, stopped_ ? cut : held_.size() - keep);
  held_.erase(0, stopped_ ? std::string::npos : held_.size() - keep);
  text_ += ready;
  return ready;
}

}  // namespace edgewise
