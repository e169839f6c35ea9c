#include "text/decoder.h"

#include "base/error.h"
#include "text/decode_steps.h"

namespace edgewise::tok {

void DecodeStream::token(std::string_view token) {
  consumed_ += token.size() + 1;
  steps_.back()->text(token);
  steps_.back()->end_token();
}

void DecodeStream::finish() { steps_.back()->finish(); }

Decoder::Decoder() { stages_.push_back(make_join_stage()); }

Decoder::Decoder(const JsonView& view) { read(view); }

// Nested sequences are read as one flat list.
void Decoder::read(const JsonView& view) {
  if (view.string("type") != "Sequence") {
    stages_.push_back(read_decoder_stage(view));
    return;
  }
  const JsonView list = view.at("decoders");
  if (!list.value().is_array()) view.reject("decoders", "an array");
  for (size_t i = 0; i < list.value().size(); ++i) read({list.value()[i], fmt::format("{}[{}]", list.where(), i)});
}

std::unique_ptr<DecodeStream> Decoder::open() const {
  auto stream = std::make_unique<DecodeStream>();
  DecodeStep* next = &stream->collector_;
  const auto push = [&](std::unique_ptr<DecodeStep> step) {
    next = step.get();
    stream->steps_.push_back(std::move(step));
  };
  for (auto stage = stages_.rbegin(); stage != stages_.rend(); ++stage) {
    push(make_growth_guard(*next, &stream->consumed_));
    push((*stage)->open(*next));
  }
  if (stages_.empty()) push(make_growth_guard(*next, &stream->consumed_));
  return stream;
}

std::string Decoder::token_bytes(std::string token) const {
  for (const auto& stage : stages_) {
    const TokenEffect effect = stage->rewrite(token);
    if (effect == TokenEffect::kFused) break;
    if (effect == TokenEffect::kContext) {
      unsupported(
          "this tokenizer's decoder makes the text of a token depend on its neighbours: such a vocabulary has no "
          "bytes for each token");
    }
  }
  return token;
}

}  // namespace edgewise::tok
