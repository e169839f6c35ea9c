#include "text/pre_tokenizer.h"

#include <algorithm>

#include "base/error.h"
#include "text/byte_alphabet.h"
#include "text/char_class.h"
#include "text/normalizer.h"
#include "text/pattern.h"
#include "text/splitting.h"
#include "text/unicode_scripts.h"

namespace edgewise::tok {

std::string& Pieces::other_buffer() {
  current_ ^= 1;
  buffers_[current_].clear();
  return buffers_[current_];
}

namespace {

// Rewrites every text piece: `write(text, piece, out)` appends its new text.
template <typename Write>
void rewrite_pieces(Pieces& pieces, const Write& write) {
  std::string& out = pieces.other_buffer();
  out.reserve(pieces.text.size() + pieces.text.size() / 4);
  for (Piece& piece : pieces.list) {
    if (piece.id >= 0) continue;
    const size_t begin = out.size();
    write(pieces.text.substr(piece.begin, piece.end - piece.begin), piece, out);
    piece.begin = begin;
    piece.end = out.size();
    check_growth(pieces.input_size, out.size());
  }
  pieces.text = out;
}

class BertPreTokenizer final : public PreTokenizer {
 public:
  void apply(Pieces& pieces) const override {
    split_pieces(pieces, SplitBehavior::kRemoved,
                 [](std::string_view text, auto& matches) { match_chars(text, matches, is_space); });
    split_pieces(pieces, SplitBehavior::kIsolated,
                 [](std::string_view text, auto& matches) { match_chars(text, matches, is_punctuation); });
  }
};

class ByteLevel final : public PreTokenizer {
 public:
  explicit ByteLevel(const JsonView& view)
      : prefix_space_(view.boolean("add_prefix_space", true)),
        pattern_(view.boolean("use_regex", true) ? std::optional<Pattern>(Pattern::regex(kGpt2Pattern, view.where()))
                                                 : std::nullopt) {}

  void apply(Pieces& pieces) const override {
    if (prefix_space_) {
      rewrite_pieces(pieces, [](std::string_view text, const Piece&, std::string& out) {
        if (!text.starts_with(' ')) out += ' ';
        out += text;
      });
    }
    if (pattern_) {
      split_pieces(pieces, SplitBehavior::kIsolated,
                   [&](std::string_view text, auto& matches) { pattern_->find_all(text, matches); });
    }
    if (!write_symbols_) return;
    rewrite_pieces(pieces,
                   [](std::string_view text, const Piece&, std::string& out) { append_byte_symbols(out, text); });
  }

  bool writes_byte_symbols() const override { return true; }
  void hand_over_bytes() override { write_symbols_ = false; }

 private:
  bool prefix_space_;
  std::optional<Pattern> pattern_;
  bool write_symbols_ = true;
};

// A single character given as a string.
char32_t read_char(const JsonView& view, const std::string& key) {
  const std::string text = view.string(key);
  size_t pos = 0;
  const char32_t c = text.empty() ? 0 : next_char(text, pos);
  if (text.empty() || pos != text.size()) view.reject(key, "a single character");
  return c;
}

class CharDelimiterSplit final : public PreTokenizer {
 public:
  explicit CharDelimiterSplit(const JsonView& view) : delimiter_(read_char(view, "delimiter")) {}
  void apply(Pieces& pieces) const override {
    split_pieces(pieces, SplitBehavior::kRemoved, [&](std::string_view text, auto& matches) {
      match_chars(text, matches, [&](char32_t c) { return c == delimiter_; });
    });
  }

 private:
  char32_t delimiter_;
};

class Metaspace final : public PreTokenizer {
 public:
  explicit Metaspace(const JsonView& view)
      : pattern_(Pattern::literal(view.string("replacement"))),
        replacement_(view.string("replacement")),
        split_(view.boolean("split", true)) {
    read_char(view, "replacement");
    const std::string scheme = view.string("prepend_scheme", "always");
    if (scheme != "always" && scheme != "first" && scheme != "never") {
      unsupported("{}: prepend_scheme: unknown scheme \"{}\"", view.where(), scheme);
    }
    // Older files have add_prefix_space instead.
    const bool add_prefix = view.boolean("add_prefix_space", true);
    always_ = add_prefix && scheme == "always";
    first_ = add_prefix && scheme == "first";
  }

  void apply(Pieces& pieces) const override {
    rewrite_pieces(pieces, [&](std::string_view text, const Piece& piece, std::string& out) {
      const bool marked = text.starts_with(' ') || text.starts_with(replacement_);
      if (!marked && (always_ || (first_ && piece.at_origin))) out += replacement_;
      for (size_t pos = 0; pos < text.size();) {
        const size_t space = std::min(text.find(' ', pos), text.size());
        out += text.substr(pos, space - pos);
        if (space < text.size()) out += replacement_;
        pos = space + 1;
      }
    });
    if (!split_) return;
    split_pieces(pieces, SplitBehavior::kMergedWithNext,
                 [&](std::string_view text, auto& matches) { pattern_.find_all(text, matches); });
  }

 private:
  Pattern pattern_;
  std::string replacement_;
  bool split_;
  bool always_;
  bool first_;
};

// \w+|[^\w\s]+
class Whitespace final : public PreTokenizer {
 public:
  void apply(Pieces& pieces) const override {
    split_pieces(pieces, SplitBehavior::kIsolated, [](std::string_view text, auto& matches) {
      for (size_t pos = 0; pos < text.size();) {
        const size_t start = pos;
        const uint8_t kind = char_flags(next_char(text, pos)) & (kWord | kSpace);
        size_t end = pos;
        while (pos < text.size() && (char_flags(next_char(text, pos)) & (kWord | kSpace)) == kind) end = pos;
        pos = end;
        if (kind != kSpace) matches.push_back({start, end, true});
      }
    });
  }
};

class WhitespaceSplit final : public PreTokenizer {
 public:
  void apply(Pieces& pieces) const override {
    split_pieces(pieces, SplitBehavior::kRemoved,
                 [](std::string_view text, auto& matches) { match_chars(text, matches, is_space); });
  }
};

class Split final : public PreTokenizer {
 public:
  explicit Split(const JsonView& view)
      : pattern_(Pattern::read(view)), behavior_(read_behavior(view)), invert_(view.boolean("invert", false)) {}

  void apply(Pieces& pieces) const override {
    split_pieces(pieces, behavior_, [&](std::string_view text, auto& matches) {
      pattern_.find_all(text, matches);
      if (!invert_) return;
      for (Match& match : matches) match.matched = !match.matched;
    });
  }

 private:
  Pattern pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

class Punctuation final : public PreTokenizer {
 public:
  explicit Punctuation(const JsonView& view) : behavior_(read_behavior(view, SplitBehavior::kIsolated)) {}
  void apply(Pieces& pieces) const override {
    split_pieces(pieces, behavior_,
                 [](std::string_view text, auto& matches) { match_chars(text, matches, is_punctuation); });
  }

 private:
  SplitBehavior behavior_;
};

class Digits final : public PreTokenizer {
 public:
  explicit Digits(const JsonView& view)
      : behavior_(view.boolean("individual_digits", false) ? SplitBehavior::kIsolated : SplitBehavior::kContiguous) {}
  void apply(Pieces& pieces) const override {
    split_pieces(pieces, behavior_,
                 [](std::string_view text, auto& matches) { match_chars(text, matches, is_number); });
  }

 private:
  SplitBehavior behavior_;
};

class UnicodeScripts final : public PreTokenizer {
 public:
  void apply(Pieces& pieces) const override {
    split_pieces(pieces, SplitBehavior::kIsolated, [](std::string_view text, auto& matches) {
      int last = kAnyScript;
      for (size_t pos = 0; pos < text.size();) {
        const size_t start = pos;
        const int script = sentencepiece_script(next_char(text, pos));
        if (script == kAnyScript) continue;
        if (script != last) {
          if (!matches.empty()) matches.back().end = start;
          matches.push_back({start, text.size(), true});  // what precedes the first script is dropped
        }
        last = script;
      }
    });
  }
};

class FixedLength final : public PreTokenizer {
 public:
  explicit FixedLength(const JsonView& view) : length_(view.integer("length", 5)) {
    if (length_ <= 0) view.reject("length", "a positive integer");
  }
  void apply(Pieces& pieces) const override {
    split_pieces(pieces, SplitBehavior::kIsolated, [&](std::string_view text, auto& matches) {
      for (size_t pos = 0; pos < text.size();) {
        const size_t start = pos;
        for (int64_t i = 0; i < length_ && pos < text.size(); ++i) next_char(text, pos);
        matches.push_back({start, pos, true});
      }
    });
  }

 private:
  int64_t length_;
};

// Nested sequences are read as one flat list.
class Sequence final : public PreTokenizer {
 public:
  explicit Sequence(const JsonView& view) { read(view); }
  void apply(Pieces& pieces) const override {
    for (const auto& step : steps_) step->apply(pieces);
  }
  bool writes_byte_symbols() const override { return !steps_.empty() && steps_.back()->writes_byte_symbols(); }
  void hand_over_bytes() override { steps_.back()->hand_over_bytes(); }

 private:
  void read(const JsonView& view) {
    const JsonView list = view.at("pretokenizers");
    if (!list.value().is_array()) view.reject("pretokenizers", "an array");
    for (size_t i = 0; i < list.value().size(); ++i) {
      const JsonView item(list.value()[i], fmt::format("{}[{}]", list.where(), i));
      if (item.string("type") == "Sequence") {
        read(item);
      } else {
        steps_.push_back(read_pre_tokenizer(item));
      }
    }
  }

  std::vector<std::unique_ptr<PreTokenizer>> steps_;
};

}  // namespace

std::unique_ptr<PreTokenizer> read_pre_tokenizer(const JsonView& view) {
  const std::string type = view.string("type");
  if (type == "Sequence") return std::make_unique<Sequence>(view);
  if (type == "BertPreTokenizer") return std::make_unique<BertPreTokenizer>();
  if (type == "ByteLevel") return std::make_unique<ByteLevel>(view);
  if (type == "CharDelimiterSplit") return std::make_unique<CharDelimiterSplit>(view);
  if (type == "Metaspace") return std::make_unique<Metaspace>(view);
  if (type == "Whitespace") return std::make_unique<Whitespace>();
  if (type == "WhitespaceSplit") return std::make_unique<WhitespaceSplit>();
  if (type == "Split") return std::make_unique<Split>(view);
  if (type == "Punctuation") return std::make_unique<Punctuation>(view);
  if (type == "Digits") return std::make_unique<Digits>(view);
  if (type == "UnicodeScripts") return std::make_unique<UnicodeScripts>();
  if (type == "FixedLength") return std::make_unique<FixedLength>(view);
  unsupported("{}: unknown pre_tokenizer type \"{}\"", view.where(), type);
}

}  // namespace edgewise::tok
