// Llama 2 and 3.x, TinyLlama, DeepSeek-R1 distills of Llama: the reference point of all the others.
#include "models/families.h"

namespace edgewise {

DecoderSpec describe_llama(ConfigReader& config) { return common_spec(config); }

// Llama with a sliding window in every layer, where sliding_window is set.
DecoderSpec describe_mistral(ConfigReader& config) { return common_spec(config); }

}  // namespace edgewise
