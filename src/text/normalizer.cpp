#include "text/normalizer.h"

#include <utility>
#include <vector>

#include "base/error.h"
#include "text/byte_alphabet.h"
#include "text/char_class.h"
#include "text/pattern.h"
#include "text/precompiled.h"
#include "text/unicode_normalize.h"
#include "text/utf8.h"

namespace edgewise::tok {
namespace {

// Applies `visit(character, out)` to every character. Returns whether the first character left output.
template <typename Visit>
bool rewrite(std::string& text, const Visit& visit) {
  std::string out;
  out.reserve(text.size());
  bool first_kept = false;
  for (size_t pos = 0; pos < text.size();) {
    const bool first = pos == 0;
    visit(next_char(text, pos), out);
    if (first) first_kept = !out.empty();
  }
  text = std::move(out);
  return first_kept;
}

template <typename Keep>
void filter(std::string& text, bool& at_origin, const Keep& keep) {
  at_origin &= rewrite(text, [&](char32_t c, std::string& out) {
    if (keep(c)) append_utf8(out, c);
  });
}

class UnicodeForm final : public Normalizer {
 public:
  explicit UnicodeForm(NormalForm form) : form_(form) {}
  void apply(std::string& text, bool&) const override { normalize_unicode(text, form_); }
  bool keeps(std::string_view text) const override { return surely_normalized(text, form_); }

 private:
  NormalForm form_;
};

class Lowercase final : public Normalizer {
 public:
  void apply(std::string& text, bool&) const override {
    rewrite(text, [](char32_t c, std::string& out) { append_lower(out, c); });
  }
  bool keeps(std::string_view text) const override { return text.empty(); }
};

class StripAccents final : public Normalizer {
 public:
  void apply(std::string& text, bool& at_origin) const override {
    filter(text, at_origin, [](char32_t c) { return !(char_flags(c) & kMark); });
  }
  bool keeps(std::string_view text) const override { return surely_normalized(text, NormalForm::kNfc); }
};

class Strip final : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  void apply(std::string& text, bool& at_origin) const override {
    size_t begin = 0;
    size_t end = text.size();
    for (size_t pos = 0; left_ && pos < text.size() && is_space(next_char(text, pos));) begin = pos;
    while (right_ && end > begin) {
      size_t pos = previous_char_start(text, end);
      const size_t start = pos;
      if (!is_space(next_char(text, pos))) break;
      end = start;
    }
    if (begin > 0) at_origin = false;
    text = text.substr(begin, end - begin);
  }
  bool keeps(std::string_view text) const override { return text.empty(); }

 private:
  bool left_;
  bool right_;
};

// The clean-up of characters that SentencePiece's "nmt" rules start with.
class Nmt final : public Normalizer {
 public:
  void apply(std::string& text, bool& at_origin) const override {
    at_origin &= rewrite(text, [](char32_t c, std::string& out) {
      if (removed(c)) return;
      append_utf8(out, blank(c) ? U' ' : c);
    });
  }
  bool keeps(std::string_view text) const override { return text.empty(); }

 private:
  static bool removed(char32_t c) {
    return (c >= 0x01 && c <= 0x08) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F;
  }
  static bool blank(char32_t c) {
    return c == '\t' || c == '\n' || c == '\f' || c == '\r' || c == 0x1680 || (c >= 0x200B && c <= 0x200F) ||
           c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
  }
};

class Bert final : public Normalizer {
 public:
  explicit Bert(const JsonView& view)
      : clean_(view.boolean("clean_text", true)),
        chinese_(view.boolean("handle_chinese_chars", true)),
        lower_(view.boolean("lowercase", true)),
        accents_(view.boolean("strip_accents", lower_)) {}

  void apply(std::string& text, bool& at_origin) const override {
    if (clean_) clean(text, at_origin);
    if (chinese_) {
      rewrite(text, [](char32_t c, std::string& out) {
        const bool apart = is_chinese(c);
        if (apart) out += ' ';
        append_utf8(out, c);
        if (apart) out += ' ';
      });
    }
    if (accents_) {
      normalize_unicode(text, NormalForm::kNfd);
      filter(text, at_origin, [](char32_t c) { return !(char_flags(c) & kNonspacing); });
    }
    if (lower_) rewrite(text, [](char32_t c, std::string& out) { append_lower(out, c); });
  }
  bool keeps(std::string_view text) const override { return text.empty(); }

 private:
  static void clean(std::string& text, bool& at_origin) {
    at_origin &= rewrite(text, [](char32_t c, std::string& out) {
      const bool blank = c == '\t' || c == '\n' || c == '\r';
      if (!blank && (char_flags(c) & kOther)) return;
      append_utf8(out, blank || is_space(c) ? U' ' : c);
    });
  }
  static bool is_chinese(char32_t c) {
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
           (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
           (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
  }

  bool clean_;
  bool chinese_;
  bool lower_;
  bool accents_;
};

class Precompiled final : public Normalizer {
 public:
  explicit Precompiled(const JsonView& view)
      : map_(view.string("precompiled_charsmap"), view.where() + ": precompiled_charsmap") {}
  void apply(std::string& text, bool&) const override { map_.apply(text); }
  bool keeps(std::string_view text) const override { return text.empty(); }

 private:
  CharsMap map_;
};

class Replace final : public Normalizer {
 public:
  explicit Replace(const JsonView& view) : pattern_(Pattern::read(view)), content_(view.string("content")) {}
  void apply(std::string& text, bool& at_origin) const override {
    std::vector<Match> matches;
    pattern_.find_all(text, matches);
    std::string out;
    out.reserve(text.size());
    for (const Match& match : matches) {
      const std::string_view part = std::string_view(text).substr(match.begin, match.end - match.begin);
      // What replaces several characters takes its place from the last of them.
      if (match.matched && match.begin == 0 && (content_.empty() || count_chars(part) > 1)) at_origin = false;
      out += match.matched ? std::string_view(content_) : part;
      check_growth(text.size(), out.size());
    }
    text = std::move(out);
  }
  bool keeps(std::string_view text) const override {
    const std::string* literal = pattern_.literal_text();
    return text.empty() || (literal != nullptr && text.find(*literal) == std::string_view::npos);
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class Prepend final : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  void apply(std::string& text, bool&) const override {
    if (!text.empty()) text.insert(0, prefix_);
  }
  bool keeps(std::string_view text) const override { return text.empty() || prefix_.empty(); }

 private:
  std::string prefix_;
};

class ByteLevel final : public Normalizer {
 public:
  void apply(std::string& text, bool&) const override {
    std::string out;
    out.reserve(text.size() * 2);
    append_byte_symbols(out, text);
    text = std::move(out);
  }
  bool keeps(std::string_view text) const override { return text.empty(); }
};

// Nested sequences are read as one flat list.
class Sequence final : public Normalizer {
 public:
  explicit Sequence(const JsonView& view) { read(view); }
  void apply(std::string& text, bool& at_origin) const override {
    const size_t before = text.size();
    for (const auto& step : steps_) {
      if (step->keeps(text)) continue;
      step->apply(text, at_origin);
      check_growth(before, text.size());
    }
  }
  bool keeps(std::string_view text) const override {
    for (const auto& step : steps_) {
      if (!step->keeps(text)) return false;
    }
    return true;
  }

 private:
  void read(const JsonView& view) {
    const JsonView list = view.at("normalizers");
    if (!list.value().is_array()) view.reject("normalizers", "an array");
    for (size_t i = 0; i < list.value().size(); ++i) {
      const JsonView item(list.value()[i], fmt::format("{}[{}]", list.where(), i));
      if (item.string("type") == "Sequence") {
        read(item);
      } else {
        steps_.push_back(read_normalizer(item));
      }
    }
  }

  std::vector<std::unique_ptr<const Normalizer>> steps_;
};

}  // namespace

void check_growth(size_t before, size_t after) {
  constexpr size_t kSlack = 1 << 20;
  constexpr size_t kFactor = 256;
  if (after > kSlack && (after - kSlack) / kFactor > before) {
    unsupported("the tokenizer's rules make {} bytes of text longer than {} bytes", before, after);
  }
}

std::unique_ptr<const Normalizer> read_normalizer(const JsonView& view) {
  const std::string type = view.string("type");
  if (type == "Sequence") return std::make_unique<Sequence>(view);
  if (type == "BertNormalizer") return std::make_unique<Bert>(view);
  if (type == "Strip") {
    return std::make_unique<Strip>(view.boolean("strip_left", true), view.boolean("strip_right", true));
  }
  if (type == "StripAccents") return std::make_unique<StripAccents>();
  if (type == "NFC") return std::make_unique<UnicodeForm>(NormalForm::kNfc);
  if (type == "NFD") return std::make_unique<UnicodeForm>(NormalForm::kNfd);
  if (type == "NFKC") return std::make_unique<UnicodeForm>(NormalForm::kNfkc);
  if (type == "NFKD") return std::make_unique<UnicodeForm>(NormalForm::kNfkd);
  if (type == "Lowercase") return std::make_unique<Lowercase>();
  if (type == "Nmt") return std::make_unique<Nmt>();
  if (type == "Precompiled") return std::make_unique<Precompiled>(view);
  if (type == "Replace") return std::make_unique<Replace>(view);
  if (type == "Prepend") return std::make_unique<Prepend>(view.string("prepend"));
  if (type == "ByteLevel") return std::make_unique<ByteLevel>();
  unsupported("{}: unknown normalizer type \"{}\"", view.where(), type);
}

}  // namespace edgewise::tok
