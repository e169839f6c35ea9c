// What the kinds of decoding steps are made of.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "text/decoder.h"

namespace edgewise::tok {

// Stages differ only in the step they open, `Step(next, settings)`, and in what they do to a single token,
// `Step::rewrite(token, settings)`.
template <typename Step, typename Settings>
class Stage final : public DecoderStage {
 public:
  explicit Stage(Settings settings) : settings_(std::move(settings)) {}
  std::unique_ptr<DecodeStep> open(DecodeStep& next) const override { return std::make_unique<Step>(next, settings_); }
  TokenEffect rewrite(std::string& token) const override { return Step::rewrite(token, settings_); }

 private:
  Settings settings_;
};

// A step that needs each token as a whole.
class WholeTokenStep : public DecodeStep {
 public:
  explicit WholeTokenStep(DecodeStep& next) : next_(next) {}
  void text(std::string_view chunk) override { token_ += chunk; }
  void end_token() override {
    whole(token_);
    token_.clear();
  }
  void finish() override { next_.finish(); }

 protected:
  virtual void whole(std::string& token) = 0;
  void emit_token(std::string_view text) {
    next_.text(text);
    next_.end_token();
  }
  DecodeStep& next_;

 private:
  std::string token_;
};

struct None {};  // a step without settings

template <typename Step, typename Settings>
std::unique_ptr<const DecoderStage> make_stage(Settings settings) {
  return std::make_unique<Stage<Step, Settings>>(std::move(settings));
}

// Reads the decoders that undo a word's pieces (BPEDecoder, CTC, WordPiece); nullptr for other types.
std::unique_ptr<const DecoderStage> read_word_decoder_stage(const JsonView& view);

}  // namespace edgewise::tok
