// The kinds of decoding steps.
#pragma once

#include <memory>

#include "text/decoder.h"

namespace edgewise::tok {

// Reads one section of type other than Sequence. Throws Error(kUnsupported) or Error(kBadFile).
std::unique_ptr<const DecoderStage> read_decoder_stage(const JsonView& view);

// Puts a space between tokens.
std::unique_ptr<const DecoderStage> make_join_stage();

// Keeps what reaches the next step in proportion to `*consumed`: Error(kUnsupported) beyond.
std::unique_ptr<DecodeStep> make_growth_guard(DecodeStep& next, const size_t* consumed);

}  // namespace edgewise::tok
