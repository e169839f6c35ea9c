#include <optional>

#include "text/decode_step_base.h"
#include "text/utf8.h"

namespace edgewise::tok {
namespace {

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  std::string out;
  size_t pos = 0;
  if (from.empty()) {  // before every character and at the end
    while (pos < text.size()) {
      const size_t start = pos;
      next_char(text, pos);
      out += to;
      out.append(text, start, pos - start);
    }
    out += to;
  } else {
    for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, pos)) {
      out.append(text, pos, at - pos);
      out += to;
      pos = at + from.size();
    }
    out.append(text, pos);
  }
  text = std::move(out);
}

// Undoes the spaces that English tokenization leaves behind.
void clean_up(std::string& text) {
  constexpr std::pair<std::string_view, std::string_view> kRules[] = {
      {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},   {" n't", "n't"},
      {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
  if (text.find(' ') == std::string::npos) return;
  for (const auto& [from, to] : kRules) replace_all(text, from, to);
}

struct WordPieceSettings {
  std::string prefix;
  bool cleanup;
};

class WordPiece final : public WholeTokenStep {
 public:
  WordPiece(DecodeStep& next, WordPieceSettings settings) : WholeTokenStep(next), settings_(std::move(settings)) {}
  static TokenEffect rewrite(std::string&, const WordPieceSettings&) { return TokenEffect::kContext; }

 private:
  void whole(std::string& token) override {
    if (!first_) {
      if (token.starts_with(settings_.prefix)) {
        token.erase(0, settings_.prefix.size());
      } else {
        token.insert(token.begin(), ' ');
      }
    }
    first_ = false;
    if (settings_.cleanup) clean_up(token);
    emit_token(token);
  }
  WordPieceSettings settings_;
  bool first_ = true;
};

// The suffix that ends a word becomes a space, except in the last token.
class Bpe final : public WholeTokenStep {
 public:
  Bpe(DecodeStep& next, std::string suffix) : WholeTokenStep(next), suffix_(std::move(suffix)) {}
  static TokenEffect rewrite(std::string&, const std::string&) { return TokenEffect::kContext; }
  void finish() override {
    flush("");
    next_.finish();
  }

 private:
  void whole(std::string& token) override {
    flush(" ");
    waiting_ = std::move(token);
  }
  void flush(std::string_view space) {
    if (!waiting_) return;
    replace_all(*waiting_, suffix_, space);
    emit_token(*waiting_);
    waiting_.reset();
  }
  std::string suffix_;
  std::optional<std::string> waiting_;
};

struct CtcSettings {
  std::string pad;
  std::string delimiter;
  bool cleanup;
};

class Ctc final : public WholeTokenStep {
 public:
  Ctc(DecodeStep& next, CtcSettings settings) : WholeTokenStep(next), settings_(std::move(settings)) {}
  static TokenEffect rewrite(std::string&, const CtcSettings&) { return TokenEffect::kContext; }

 private:
  void whole(std::string& token) override {
    if (previous_ == token) return;
    previous_ = token;
    replace_all(token, settings_.pad, "");
    if (settings_.cleanup) {
      clean_up(token);
      replace_all(token, settings_.delimiter, " ");
    }
    if (!token.empty()) emit_token(token);
  }
  CtcSettings settings_;
  std::optional<std::string> previous_;
};

}  // namespace

std::unique_ptr<const DecoderStage> read_word_decoder_stage(const JsonView& view) {
  const std::string type = view.string("type");
  if (type == "BPEDecoder") return make_stage<Bpe>(view.string("suffix", "</w>"));
  if (type == "WordPiece") {
    return make_stage<WordPiece>(WordPieceSettings{view.string("prefix", "##"), view.boolean("cleanup", true)});
  }
  if (type == "CTC") {
    return make_stage<Ctc>(CtcSettings{view.string("pad_token", "<pad>"), view.string("word_delimiter_token", "|"),
                                       view.boolean("cleanup", true)});
  }
  return nullptr;
}

}  // namespace edgewise::tok
