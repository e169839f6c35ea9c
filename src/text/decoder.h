// Decoders: from tokens back to text, in steps that work on a stream of tokens.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "formats/json.h"

namespace edgewise::tok {

// One step of decoding. Tokens arrive in chunks of whole characters; a step hands on what can no longer
// change.
class DecodeStep {
 public:
  virtual ~DecodeStep() = default;
  virtual void text(std::string_view chunk) = 0;  // more of the current token
  virtual void end_token() = 0;
  virtual void finish() = 0;  // no more tokens; called once
};

// The last step: collects the text.
class TextCollector final : public DecodeStep {
 public:
  void text(std::string_view chunk) override { collected_ += chunk; }
  void end_token() override {}
  void finish() override {}
  std::string take() { return std::exchange(collected_, {}); }

 private:
  std::string collected_;
};

// How a stage treats a single token, seen apart from its neighbours.
enum class TokenEffect {
  kRewritten,  // the token is now what the stage makes of it
  kFused,      // tokens are joined from here on: later stages see only the ends of the text
  kContext,    // the outcome depends on the neighbours
};

class DecoderStage {
 public:
  virtual ~DecoderStage() = default;
  virtual std::unique_ptr<DecodeStep> open(DecodeStep& next) const = 0;
  // What this stage makes of one token in the middle of a text.
  virtual TokenEffect rewrite(std::string& token) const = 0;
};

// The steps of one stream, which holds on to its input's size to bound its output.
class DecodeStream {
 public:
  void token(std::string_view token);
  void finish();
  // The text complete since the last call.
  std::string take() { return collector_.take(); }

 private:
  friend class Decoder;
  TextCollector collector_;
  std::vector<std::unique_ptr<DecodeStep>> steps_;  // last step first
  size_t consumed_ = 0;
};

// The "decoder" section of a file.
class Decoder {
 public:
  Decoder();  // without that section, tokens are joined by spaces
  // Throws Error(kUnsupported) or Error(kBadFile).
  explicit Decoder(const JsonView& view);

  std::unique_ptr<DecodeStream> open() const;
  // The bytes that `token` stands for in the middle of a text, whole characters or not. Throws
  // Error(kUnsupported) when they depend on the tokens around it.
  std::string token_bytes(std::string token) const;

 private:
  void read(const JsonView& view);
  std::vector<std::unique_ptr<const DecoderStage>> stages_;
};

}  // namespace edgewise::tok
