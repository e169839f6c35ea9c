#include "text/decode_steps.h"

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "text/byte_alphabet.h"
#include "text/decode_step_base.h"
#include "text/normalizer.h"
#include "text/pattern.h"
#include "text/utf8.h"

namespace edgewise::tok {
namespace {

class GrowthGuard final : public DecodeStep {
 public:
  GrowthGuard(DecodeStep& next, const size_t* consumed) : next_(next), consumed_(consumed) {}
  void text(std::string_view chunk) override {
    produced_ += chunk.size();
    check_growth(*consumed_, produced_);
    next_.text(chunk);
  }
  void end_token() override { next_.end_token(); }
  void finish() override { next_.finish(); }

 private:
  DecodeStep& next_;
  const size_t* consumed_;
  size_t produced_ = 0;
};

class Join final : public DecodeStep {
 public:
  Join(DecodeStep& next, None) : next_(next) {}
  static TokenEffect rewrite(std::string&, const None&) { return TokenEffect::kContext; }
  void text(std::string_view chunk) override {
    if (!first_ && at_start_) next_.text(" ");
    at_start_ = false;
    next_.text(chunk);
  }
  void end_token() override {
    if (!first_ && at_start_) next_.text(" ");
    first_ = false;
    at_start_ = true;
    next_.end_token();
  }
  void finish() override { next_.finish(); }

 private:
  DecodeStep& next_;
  bool first_ = true;
  bool at_start_ = true;
};

// GPT-2's symbols back to bytes, the bytes to characters; all tokens become one.
class ByteLevel final : public WholeTokenStep {
 public:
  ByteLevel(DecodeStep& next, None) : WholeTokenStep(next) {}
  static TokenEffect rewrite(std::string& token, const None&) {
    std::string bytes;
    if (append_symbol_bytes(bytes, token)) token = std::move(bytes);
    return TokenEffect::kFused;
  }
  void finish() override {
    flush(true);
    next_.end_token();
    next_.finish();
  }

 private:
  void whole(std::string& token) override {
    if (!append_symbol_bytes(bytes_, token)) bytes_ += token;
    flush(false);
  }
  void flush(bool at_end) {
    text_.clear();
    bytes_.erase(0, append_lossy(text_, bytes_, at_end));
    if (!text_.empty()) next_.text(text_);
  }
  std::string bytes_;  // the start of a character that is not yet complete
  std::string text_;
};

class Fuse final : public DecodeStep {
 public:
  Fuse(DecodeStep& next, None) : next_(next) {}
  static TokenEffect rewrite(std::string&, const None&) { return TokenEffect::kFused; }
  void text(std::string_view chunk) override { next_.text(chunk); }
  void end_token() override {}
  void finish() override {
    next_.end_token();
    next_.finish();
  }

 private:
  DecodeStep& next_;
};

// Tokens <0x00> to <0xFF> stand for bytes. A run of them is text when it is well-formed UTF-8, otherwise each
// is U+FFFD; so a run must be complete before anything of it is known.
class ByteFallback final : public WholeTokenStep {
 public:
  ByteFallback(DecodeStep& next, None) : WholeTokenStep(next) {}
  static TokenEffect rewrite(std::string& token, const None&) {
    if (const auto byte = byte_of(token)) token.assign(1, *byte);
    return TokenEffect::kRewritten;
  }
  void finish() override {
    flush();
    next_.finish();
  }

 private:
  static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  }
  static std::optional<char> byte_of(std::string_view token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
    const int low = hex_digit(token[4]);
    if (token[3] == '+' && low >= 0) return static_cast<char>(low);  // the reference takes a sign
    const int high = hex_digit(token[3]);
    if (high < 0 || low < 0) return std::nullopt;
    return static_cast<char>(high * 16 + low);
  }
  void whole(std::string& token) override {
    if (const auto byte = byte_of(token)) {
      bytes_ += *byte;
      return;
    }
    flush();
    emit_token(token);
  }
  void flush() {
    if (bytes_.empty()) return;
    if (valid_utf8_prefix(bytes_) == bytes_.size()) {
      emit_token(bytes_);
    } else {
      for (size_t i = 0; i < bytes_.size(); ++i) emit_token("\xEF\xBF\xBD");
    }
    bytes_.clear();
  }
  std::string bytes_;
};

struct StripSettings {
  std::string content;  // one character
  uint64_t start;       // how many of it to remove from either end of a token
  uint64_t stop;
};

class Strip final : public DecodeStep {
 public:
  Strip(DecodeStep& next, StripSettings settings)
      : next_(next), settings_(std::move(settings)), left_(settings_.start) {}
  static TokenEffect rewrite(std::string& token, const StripSettings& settings) {
    const auto is_content = [&](size_t at) {
      return token.compare(at, settings.content.size(), settings.content) == 0;
    };
    for (uint64_t i = 0; i < settings.start && !token.empty() && is_content(0); ++i) {
      token.erase(0, settings.content.size());
    }
    for (uint64_t i = 0; i < settings.stop && token.ends_with(settings.content); ++i) {
      token.erase(token.size() - settings.content.size());
    }
    return TokenEffect::kRewritten;
  }
  void text(std::string_view chunk) override {
    for (size_t pos = 0; pos < chunk.size();) {
      const size_t start = pos;
      next_char(chunk, pos);
      const std::string_view character = chunk.substr(start, pos - start);
      if (character != settings_.content) {
        left_ = 0;
        release(held_);
        next_.text(character);
      } else if (left_ > 0) {
        --left_;
      } else if (held_ < settings_.stop) {
        ++held_;
      } else {
        next_.text(character);
      }
    }
  }
  void end_token() override {
    held_ = 0;
    left_ = settings_.start;
    next_.end_token();
  }
  void finish() override { next_.finish(); }

 private:
  void release(uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) next_.text(settings_.content);
    held_ = 0;
  }
  DecodeStep& next_;
  StripSettings settings_;
  uint64_t left_;      // still to remove at the start
  uint64_t held_ = 0;  // seen, but removed if the token ends here
};

struct ReplaceSettings {
  std::shared_ptr<const Pattern> pattern;
  std::string content;
};

// A literal pattern is replaced as text arrives, a regular expression when the token is complete.
class Replace final : public DecodeStep {
 public:
  Replace(DecodeStep& next, ReplaceSettings settings) : next_(next), settings_(std::move(settings)) {}
  static TokenEffect rewrite(std::string& token, const ReplaceSettings& settings) {
    std::vector<Match> matches;
    settings.pattern->find_all(token, matches);
    std::string out;
    for (const Match& match : matches) {
      out += match.matched ? settings.content : token.substr(match.begin, match.end - match.begin);
    }
    token = std::move(out);
    return TokenEffect::kRewritten;
  }
  void text(std::string_view chunk) override {
    pending_ += chunk;
    const std::string* literal = settings_.pattern->literal_text();
    if (literal == nullptr || literal->empty()) return;
    size_t done = 0;
    for (size_t at = pending_.find(*literal); at != std::string::npos; at = pending_.find(*literal, done)) {
      emit(done, at);
      next_.text(settings_.content);
      done = at + literal->size();
    }
    const size_t keep = partial_match(std::string_view(pending_).substr(done), *literal);
    emit(done, pending_.size() - keep);
    pending_.erase(0, pending_.size() - keep);
  }
  void end_token() override {
    matches_.clear();
    settings_.pattern->find_all(pending_, matches_);
    for (const Match& match : matches_) {
      if (match.matched) {
        next_.text(settings_.content);
      } else {
        emit(match.begin, match.end);
      }
    }
    pending_.clear();
    next_.end_token();
  }
  void finish() override { next_.finish(); }

 private:
  // Length of the longest end of `text` that a match could start with.
  static size_t partial_match(std::string_view text, std::string_view literal) {
    size_t length = std::min(text.size(), literal.size() - 1);
    while (length > 0 && !literal.starts_with(text.substr(text.size() - length))) --length;
    return length;
  }
  void emit(size_t begin, size_t end) {
    if (begin < end) next_.text(std::string_view(pending_).substr(begin, end - begin));
  }
  DecodeStep& next_;
  ReplaceSettings settings_;
  std::string pending_;
  std::vector<Match> matches_;
};

struct MetaspaceSettings {
  std::string replacement;
  bool drop_first;  // of the first token, the space that encoding put there
};

class Metaspace final : public DecodeStep {
 public:
  Metaspace(DecodeStep& next, MetaspaceSettings settings) : next_(next), settings_(std::move(settings)) {}
  static TokenEffect rewrite(std::string& token, const MetaspaceSettings& settings) {
    std::string out;
    for (size_t pos = 0; pos < token.size();) {
      const size_t at = std::min(token.find(settings.replacement, pos), token.size());
      out.append(token, pos, at - pos);
      if (at < token.size()) out += ' ';
      pos = at + settings.replacement.size();
    }
    token = std::move(out);
    return TokenEffect::kRewritten;
  }
  void text(std::string_view chunk) override {
    for (size_t pos = 0; pos < chunk.size();) {
      const size_t at = std::min(chunk.find(settings_.replacement, pos), chunk.size());
      if (at > pos) next_.text(chunk.substr(pos, at - pos));
      if (at < chunk.size() && !(first_ && settings_.drop_first)) next_.text(" ");
      pos = at + settings_.replacement.size();
    }
  }
  void end_token() override {
    first_ = false;
    next_.end_token();
  }
  void finish() override { next_.finish(); }

 private:
  DecodeStep& next_;
  MetaspaceSettings settings_;
  bool first_ = true;
};

// A field that holds one character.
std::string read_character(const JsonView& view, const std::string& key) {
  std::string text = view.string(key);
  if (text.empty() || utf8_length(static_cast<unsigned char>(text[0])) != text.size()) {
    view.reject(key, "a single character");
  }
  return text;
}

StripSettings read_strip(const JsonView& view) {
  const int64_t start = view.integer("start", 0);
  const int64_t stop = view.integer("stop", 0);
  if (start < 0) view.reject("start", "a count");
  if (stop < 0) view.reject("stop", "a count");
  return {read_character(view, "content"), static_cast<uint64_t>(start), static_cast<uint64_t>(stop)};
}

}  // namespace

std::unique_ptr<const DecoderStage> read_decoder_stage(const JsonView& view) {
  const std::string type = view.string("type");
  if (type == "ByteLevel") return make_stage<ByteLevel>(None{});
  if (type == "Fuse") return make_stage<Fuse>(None{});
  if (type == "ByteFallback") return make_stage<ByteFallback>(None{});
  if (type == "Strip") return make_stage<Strip>(read_strip(view));
  if (type == "Replace") {
    return make_stage<Replace>(
        ReplaceSettings{std::make_shared<const Pattern>(Pattern::read(view)), view.string("content")});
  }
  if (type == "Metaspace") {
    const bool drop = view.boolean("add_prefix_space", true) && view.string("prepend_scheme", "always") != "never";
    return make_stage<Metaspace>(MetaspaceSettings{read_character(view, "replacement"), drop});
  }
  if (auto stage = read_word_decoder_stage(view)) return stage;
  unsupported("{}: unknown decoder type \"{}\"", view.where(), type);
}

std::unique_ptr<const DecoderStage> make_join_stage() { return make_stage<Join>(None{}); }

std::unique_ptr<DecodeStep> make_growth_guard(DecodeStep& next, const size_t* consumed) {
  return std::make_unique<GrowthGuard>(next, consumed);
}

}  // namespace edgewise::tok
